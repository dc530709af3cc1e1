"""The roofline model of `plan`: the time of a step, from published peaks. Arithmetic only."""

from dataclasses import dataclass

IMAGES_PER_CORE = 770.0
"""JPEGs that one CPU core reads, decodes, crops, resizes to 224 pixels and flips in a second.
Measured: 1.3 ms of CPU time for each image (110 kB, from memory) on an AMD EPYC (Zen 5) virtual
machine, which also had other loads (`benchmarks/results/input.jsonl`)."""


def cores_for(images_per_second: float, images_per_core: float = IMAGES_PER_CORE) -> float:
    """CPU cores needed to prepare this number of JPEGs in a second.

    >>> round(cores_for(2 * IMAGES_PER_CORE), 2)
    2.0
    """
    return images_per_second / images_per_core


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step on each resource, if that resource were the only limit."""

    compute: float
    hbm: float
    network: float
    input: float
    """Time in which all CPUs of a host decode its part of the batch."""

    @property
    def step(self) -> float:
        """The longest time of the chip's three: they overlap perfectly (Williams 2009)."""
        return max(self.compute, self.hbm, self.network)

    @property
    def bottleneck(self) -> str:
        """The resource with the longest time."""
        times = {
            "HBM bandwidth": self.hbm,
            "compute": self.compute,
            "network": self.network,
            "input": self.input,
        }
        return max(times, key=lambda name: times[name])

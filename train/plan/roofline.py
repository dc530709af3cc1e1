"""The models behind `plan`: the time of a step from published peaks, and what would fit.

Arithmetic only: what the compiler said goes in as numbers.
"""

from dataclasses import dataclass

IMAGES_PER_CORE = 770.0
"""JPEGs that one CPU core reads, decodes, crops, resizes to 224 pixels and mirrors in a second:
measured, 1.3 ms of CPU time each (110 kB, from memory) on an AMD EPYC (Zen 5) virtual machine, with
other loads beside it (`benchmarks/results/input.jsonl`)."""


def cores_for(images_per_second: float, images_per_core: float = IMAGES_PER_CORE) -> float:
    """CPU cores that prepare so many JPEGs in a second.

    >>> round(cores_for(2 * IMAGES_PER_CORE), 2)
    2.0
    """
    return images_per_second / images_per_core


@dataclass(frozen=True)
class Roofline:
    """Seconds that one step takes of each resource, if that alone were the limit."""

    compute: float
    hbm: float
    network: float
    input: float
    """Of all CPUs of a host, to decode its part of the batch."""

    @property
    def step(self) -> float:
        """The longest of the chip's three: they overlap perfectly (Williams 2009)."""
        return max(self.compute, self.hbm, self.network)

    @property
    def binds(self) -> str:
        """The resource that takes longest."""
        times = {
            "HBM bandwidth": self.hbm,
            "compute": self.compute,
            "network": self.network,
            "input": self.input,
        }
        return max(times, key=lambda name: times[name])

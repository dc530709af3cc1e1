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


@dataclass(frozen=True)
class Footprint:
    """Bytes of one chip while a step runs. `rest` grows with the batch; the others do not."""

    parameters: int
    gradients: int
    shared: int
    """Optimiser state and EMA, of which `fsdp` chips keep one copy between them."""
    rest: int

    def at(self, *, batch: float, fsdp: float) -> float:
        """Bytes with the batch and with `mesh.fsdp` times as large: linear in both."""
        return self.parameters + self.gradients + self.shared / fsdp + self.rest * batch


def suggestions(
    now: Footprint, usable: int, *, batch_per_chip: int, chips: int, fsdp: int
) -> list[str]:
    """Options with which the step should fit, each with the bytes that `Footprint.at` gives it."""

    def largest(factor: float) -> int:
        """Images on a chip that fit beside the state; in eights, where there are that many."""
        free = usable - now.at(batch=0, fsdp=factor)
        images = min(int(free / now.rest * batch_per_chip), batch_per_chip) if now.rest else 0
        return max(images // 8 * 8 if images >= 8 else images, 0)

    def line(images: int, parts: int) -> str:
        need = now.at(batch=images / batch_per_chip, fsdp=parts / fsdp)
        options = [f"--mesh.fsdp {parts}"] * (parts != fsdp)
        options += [f"--batch_size {images * chips}"] * (images != batch_per_chip)
        return f"{' '.join(options)} (about {need / 2**30:.1f} GiB per device)"

    more = [n for n in range(fsdp + 1, chips + 1) if chips % n == 0 and n % fsdp == 0]
    fits = {n: largest(n / fsdp) for n in (fsdp, *more)}
    found = [line(fits[fsdp], fsdp)] if fits[fsdp] else []
    whole = [n for n in more if fits[n] == batch_per_chip and n > fsdp]
    if whole:
        found.append(line(batch_per_chip, whole[0]))
    elif not found and max(fits.values()):
        best = max(more, key=lambda n: (fits[n], -n))
        found.append(line(fits[best], best))
    return found

"""The memory of a training step on one device: reported by the compiler, and options that fit."""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from train.data.batch import label_array
from train.distributed.mesh import batch_sharding
from train.run.parts import Run


def abstract_batch(run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a global batch as the pipeline delivers it, with their sharding."""
    count, size = run.config.batch_size, run.config.data.image_size
    shapes = {
        "image": ((count, size, size, run.splits.train.channels), np.uint8),
        "label": label_array(count, run.config.data, len(run.class_names)),
        "mask": ((count,), np.float32),
    }
    where = batch_sharding(run.mesh)
    return {k: jax.ShapeDtypeStruct(*v, sharding=where) for k, v in shapes.items()}


def peak_bytes(found: Any) -> int:
    """The peak memory of a device while a program runs, from its `memory_analysis()`."""
    # Outputs that reuse no argument's buffer, such as the sums of the metrics
    fresh = found.output_size_in_bytes - found.alias_size_in_bytes
    code = found.generated_code_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + fresh + code


def shard_bytes(tree: Any) -> int:
    """Bytes on one device of a tree of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def memory_in(message: str) -> tuple[int | None, int | None]:
    """(bytes needed, bytes available) from libtpu's out-of-memory message, or (None, None).

    Its "temporaries" include arguments and results (measured with programs of known size, libtpu
    0.0.42 and 0.0.52).

    >>> memory_in("HLO temporaries (20.50G) exceeds available HBM (15.75G)")
    (22011707392, 16911433728)
    """
    size = r"\(([\d.]+)([KMGT])\)"
    found = re.search(rf"{size} exceeds available HBM {size}", message)
    if not found:
        return None, None
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, available = (int(float(found[i]) * units[found[i + 1]]) for i in (1, 3))
    return needed, available


@dataclass(frozen=True)
class Footprint:
    """Bytes on one chip while a step runs. Only `rest` grows with the batch."""

    parameters: int
    gradients: int
    shared: int
    """Optimiser state and EMA, which `fsdp` chips share as one copy."""
    rest: int

    def at(self, *, batch: float, fsdp: float) -> float:
        """Bytes if the batch is `batch` times and `mesh.fsdp` is `fsdp` times as large."""
        return self.parameters + self.gradients + self.shared / fsdp + self.rest * batch


def suggestions(
    now: Footprint, usable: int, *, batch_per_chip: int, chips: int, fsdp: int
) -> list[str]:
    """Options with which the step should fit, each with its memory by `Footprint.at`."""

    def largest(factor: float) -> int:
        """Images per chip that fit beside the state; from 8 on, a multiple of 8."""
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

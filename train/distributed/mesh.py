"""The device mesh, and the shardings of arrays over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config import ConfigError

Batch = dict[str, jax.Array]
"""A global batch on the devices: image, label, mask, and the entries that `prepare` adds."""


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """A mesh of all devices of all processes, with the axes `data` and `fsdp`.

    The devices of one row share one copy of the state. A batch is split over both axes. The devices
    are ordered by process: process p reads the p-th part of a batch (`shard`), and the devices of a
    row belong to as few processes as possible.

    Args:
      devices: default: all devices.
      fsdp: number of devices that share one copy of the state.

    Raises:
      ConfigError: `fsdp` does not divide the devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if count % fsdp:
        if count == 1:
            raise ConfigError(
                f"mesh.fsdp {fsdp}: there is 1 device; leave it at 1. To try it on a CPU, "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={fsdp} simulates {fsdp}"
            )
        good = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ConfigError(f"mesh.fsdp {fsdp}: does not divide {count} devices; choose from {good}")
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    rows = np.array(ordered).reshape(count // fsdp, fsdp)
    return Mesh(rows, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def shard(mesh: Mesh) -> tuple[int, int]:
    """(index of this process, number of processes): the share of a batch that is read here."""
    return jax.process_index(), jax.process_count()


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of the state: the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: the first axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def steps_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of the batches of several steps: the second axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def fsdp_sharding(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each array (or shape) of a tree over the `fsdp` axis of the mesh.

    An array is split along its longest axis that the number of devices divides. Arrays without such
    an axis are replicated.
    """
    parts = mesh.shape["fsdp"]

    def sharding(x: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(x.shape) if size % parts == 0]
        if parts == 1 or not axes:
            return replicated_sharding(mesh)
        axis = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(sharding, tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This process's rows of a batch -> the global batch's image, label and mask on the devices."""
    sharding = batch_sharding(mesh)
    on_device = {key: batch[key] for key in ("image", "label", "mask")}
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), on_device)


def check_batch_size(where: str, batch_size: int, mesh: Mesh) -> None:
    """Raises `ConfigError` if the number of devices does not divide a global batch size."""
    if batch_size % mesh.size:
        near = max(batch_size // mesh.size, 1) * mesh.size
        raise ConfigError(
            f"{where} {batch_size}: does not divide over {mesh.size} devices; "
            f"choose a multiple of {mesh.size}, such as {near}"
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that is at least `batch_size`."""
    return -(-batch_size // mesh.size) * mesh.size

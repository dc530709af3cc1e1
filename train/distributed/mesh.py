"""Devices, processes and how arrays lie on them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config import ConfigError

Batch = dict[str, jax.Array]
"""A global batch on the devices: image, label, mask, and what `prepare` adds."""


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """All devices of all processes, in rows of `fsdp` that share one copy of the state.

    The axes are `data` and `fsdp`; a batch is cut over both. The devices are in order of their
    processes, because process p reads the p-th part of a batch (`shard`), and so that a row lies
    in as few processes as it can.

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
    """(this process, processes): whose rows of a global batch are read here."""
    return jax.process_index(), jax.process_count()


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same array on every device: the state."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis cut over the devices: a batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def steps_sharding(mesh: Mesh) -> NamedSharding:
    """The second axis cut over the devices: the batches of several steps."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def fsdp_sharding(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each array, or shape, of a tree that `mesh.fsdp` devices keep between them.

    An array is cut along its longest axis that they divide; what has none, every device has.
    """
    parts = mesh.shape["fsdp"]

    def cut(x: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(x.shape) if size % parts == 0]
        if parts == 1 or not axes:
            return replicated_sharding(mesh)
        axis = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(cut, tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This process's rows of a batch -> the global batch's image, label and mask on the devices."""
    sharding = batch_sharding(mesh)
    on_device = {key: batch[key] for key in ("image", "label", "mask")}
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), on_device)


def check_batch_size(where: str, batch_size: int, mesh: Mesh) -> None:
    """Raises `ConfigError` if the devices do not divide a global batch."""
    if batch_size % mesh.size:
        near = max(batch_size // mesh.size, 1) * mesh.size
        raise ConfigError(
            f"{where} {batch_size}: does not divide over {mesh.size} devices; "
            f"choose a multiple of {mesh.size}, such as {near}"
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next batch size that the devices divide."""
    return -(-batch_size // mesh.size) * mesh.size

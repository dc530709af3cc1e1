"""Devices, processes and how arrays lie on them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config import ConfigError, MeshConfig


def start_processes(config: MeshConfig) -> None:
    """Joins the run's other processes, before any other use of JAX; a single one has none."""
    if config.coordinator is not None:
        jax.distributed.initialize(config.coordinator, config.processes, config.process_id)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One `data` axis over all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def shard(mesh: Mesh) -> tuple[int, int]:
    """(this process, processes): whose rows of a global batch are read here."""
    return jax.process_index(), jax.process_count()


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: the state."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """The first axis cut over the devices: a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch -> the global batch's image, label and mask on the devices."""
    sharding = by_example(mesh)
    on_device = {key: batch[key] for key in ("image", "label", "mask")}
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), on_device)


def put_state(state: Any, mesh: Mesh) -> Any:
    """Host arrays, the same in every process -> replicated device arrays."""
    return jax.device_put(state, replicated(mesh))


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

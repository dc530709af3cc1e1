"""Hardware by name ("v5e:16x16", "h200", "h200:8"), and JAX devices to compile for it."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from train.config import ConfigError
from train.plan.chips import CHIPS, Chip

_FORMS = {
    "v4": "v4:2x2x1, v4:2x2x2, v4:2x2x4, v4:2x4x4, v4:4x4x4 and multiples of 4 on every axis",
    "v5e": "v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4, v5e:4x8, v5e:8x8, v5e:8x16, v5e:16x16",
    "v5p": "v5p:2x2x1, v5p:2x2x2, v5p:2x2x4, v5p:2x4x4, v5p:4x4x4 and multiples of 4 on every axis",
    "v6e": "v6e:1x1, v6e:2x2, v6e:2x4, v6e:4x4, v6e:4x8, v6e:8x8, v6e:8x16, v6e:16x16",
}
_FLAT = {(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)}
_SOLID = {(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)}


@dataclass(frozen=True)
class Topology:
    """A slice of a TPU pod, or the GPUs of one host."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    """Chips along each axis of the torus; for GPUs, their number."""

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chip.host_chips)

    @property
    def wire(self) -> float:
        """Bytes/s that a chip sends in a ring of all chips: one link for each axis of the torus, or
        two if the axis is a ring.
        """
        if self.chip.sm:
            return self.chip.link
        closed = [size % self.chip.wraps_at == 0 for size in self.shape if size > 1]
        if len(self.shape) == 3:  # the optical switches make rings only between whole cubes
            closed = [all(closed) and len(closed) == 3] * len(closed)
        return self.chip.link * sum(1 + ring for ring in closed)


def parse_topology(name: str) -> Topology:
    """Parses "v5e:16x16", "v4:2x2x1", "h200" or "h200:8".

    Raises:
      ConfigError: an unknown chip, or a shape that it does not have.
    """
    kind, _, size = name.partition(":")
    if kind not in CHIPS:
        tpus = ", ".join(f"{chip}:{'2x2x1' if chip in ('v4', 'v5p') else '2x2'}" for chip in _FORMS)
        gpus = ", ".join(chip for chip in CHIPS if chip not in _FORMS)
        raise ConfigError(
            f"{f'topology {name!r}' if name else '--topology is missing'}: choose a TPU with a "
            f"shape ({tpus}, ...) or a GPU ({gpus}; h200:8 for eight)"
        )
    chip = CHIPS[kind]
    if chip.sm:
        if not re.fullmatch(r"[1-8]?", size) or name.endswith(":"):
            raise ConfigError(
                f"topology {name!r}: write {kind}, or {kind}:2 to {kind}:8 (one host)"
            )
        return Topology(name, chip, (int(size or 1),))
    good = re.fullmatch(r"\d+(x\d+)+", size)
    shape = tuple(map(int, size.split("x"))) if good else ()
    if not _exists(chip, shape):
        limit = f"; at most {chip.largest} chips" if kind in ("v4", "v5p") else ""
        raise ConfigError(f"topology {name!r}: choose from {_FORMS[kind]}{limit}")
    return Topology(name, chip, shape)


def _exists(chip: Chip, shape: tuple[int, ...]) -> bool:
    if chip.name in ("v5e", "v6e"):
        return shape in _FLAT
    cubes = len(shape) == 3 and all(size >= 4 and size % 4 == 0 for size in shape)
    return shape in _SOLID or (cubes and math.prod(shape) <= chip.largest)


def prepare_environment() -> None:
    """Sets variables for compiling without the hardware. Call it before JAX is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # do not look for a cloud machine's metadata
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU is used: plans can run at once
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    # libtpu reads these when it loads, and prints errors without them. No topology depends on them.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")


def check_compiler(chip: Chip) -> str:
    """Name of the package that compiles for a chip.

    Raises:
      ConfigError: it is not installed; the message names the extra that installs it.
    """
    modules = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_plugins.xla_cuda13", "plan-gpu")}
    module, extra = modules[chip.platform]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(
            f"no compiler for {chip.name}: {module} is not installed; pip install -e '.[{extra}]'"
        )
    return {"tpu": "libtpu", "cuda": "jax-cuda13-plugin"}[chip.platform]


def devices(topology: Topology) -> Any:
    """Devices to compile for; nothing can run on them. Call `prepare_environment` first.

    Raises:
      ConfigError: the compiler does not accept the topology.
    """
    import jax
    from jax.experimental import topologies

    chip = topology.chip
    try:
        if chip.sm:
            return topologies.get_topology_desc(
                topology.name,
                "cuda",
                target_config=target_config(chip),
                topology=f"1x1x{topology.chips}",
            ).devices
        return topologies.get_topology_desc(topology.name, "tpu", **tpu_options(topology)).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"topology {topology.name!r}: {error}") from None


def tpu_options(topology: Topology) -> dict[str, Any]:
    """Options of a slice for libtpu, besides its name.

    The chips of a host are given, because the default of libtpu 0.0.42 is 2x2x1 for every slice,
    which fails for a single chip.

    >>> tpu_options(parse_topology("v5e:1x1"))
    {'chips_per_host_bounds': (1, 1, 1)}
    """
    width, height = topology.shape[:2]
    options: dict[str, Any] = {"chips_per_host_bounds": (min(width, 2), min(height, 2), 1)}
    if topology.chip.name == "v4":  # its two cores are one device
        options["chip_config_name"] = "megacore"
    return options


def target_config(chip: Chip) -> str:
    """The description of an NVIDIA GPU for XLA's compiler: a GpuTargetConfigProto as text."""
    sm = chip.sm
    assert sm is not None
    return f"""
gpu_device_info {{
  name: "{sm.name}"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {sm.capability}.0"
  cuda_compute_capability {{ major: {sm.capability} }}
  core_count: {sm.count}
  fpus_per_core: {sm.cores}
  clock_rate_ghz: {sm.clock}
  memory_bandwidth: {int(chip.hbm_bandwidth)}
  device_memory_size: {chip.hbm_bytes}
  l2_cache_size: {sm.l2}
  shared_memory_per_core: {sm.shared}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {sm.shared - 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{sm.name}"
"""

"""Published figures of chips: peak FLOP/s, memory and links.

TPU: Google's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e"
(https://docs.cloud.google.com/tpu/docs/v5e and so on): bf16 FLOP/s, size and bandwidth of HBM, and
inter-chip links. Links of v4: Jouppi 2023 (arXiv:2304.01433), table 4. CPUs of a host: virtual
machines with four chips in "Plan TPUs in GKE"
(https://docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus).

GPU (SXM modules): NVIDIA's data sheets of A100, H100 and H200 (dense figures, half of those "with
sparsity"), and the Ampere and Hopper whitepapers (SMs, L2, boost clocks). Limits of an SM: table
"Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide. CPU cores of a
host: data sheets of DGX A100, H100 and H200.

No figure in this table is measured, and real programs do not reach the peaks.
"""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Sm:
    """Further figures of an NVIDIA GPU that XLA's compiler needs."""

    name: str
    capability: int
    """Major compute capability; the minor one is 0."""
    count: int
    cores: int
    """FP32 cores of an SM."""
    clock: float
    """Boost clock, in GHz."""
    shared: int
    """Largest shared memory of an SM, in bytes; a block has 1 KiB less."""
    l2: int
    """L2 cache, in bytes."""


@dataclass(frozen=True)
class Chip:
    """One accelerator, as `jax.devices()` counts them."""

    name: str
    platform: Literal["tpu", "cuda"]
    bf16_flops: float
    """Peak of the matrix units, FLOP/s."""
    fp32_flops: float
    """Peak of float32 convolutions with JAX's default precision, FLOP/s: one bfloat16 pass on a
    TPU, TF32 on a GPU."""
    hbm_bytes: int
    hbm_usable: int
    """Memory that a program can use, in bytes. TPU: the limit of libtpu 0.0.52's compiler. GPU: the
    75 % that JAX allocates (https://docs.jax.dev/en/latest/gpu_memory_allocation.html)."""
    hbm_bandwidth: float
    """Bytes/s."""
    link: float
    """Bandwidth of one link in one direction, bytes/s. All links of a GPU lead to the switch, and
    count as one."""
    wraps_at: int
    """A torus axis is a ring if its length is a multiple of this; 0: a switch, not a torus."""
    largest: int
    """Largest number of connected chips."""
    host_chips: int
    host_cpus: int
    sm: Sm | None = None


def _tpu(
    name: str,
    flops: float,
    *,
    hbm: float,
    usable: float,
    bandwidth: float,
    link: float,
    wraps_at: int,
    largest: int,
    cpus: int,
) -> Chip:
    memory = (int(hbm * GIB), int(usable * GIB), bandwidth)
    return Chip(name, "tpu", flops, flops, *memory, link, wraps_at, largest, 4, cpus)


def _gpu(
    name: str, sm: Sm, tf32: float, *, hbm: int, bandwidth: float, link: float, cpus: int
) -> Chip:
    memory = (hbm, hbm * 3 // 4, bandwidth)
    return Chip(name, "cuda", 2 * tf32, tf32, *memory, link, 0, 8, 8, cpus, sm)


_GA100 = (8, 108, 64, 1.41, 164 * 1024, 40 * 2**20)
_GH100 = (9, 132, 128, 1.98, 228 * 1024, 50 * 2**20)
_A100_40 = Sm("NVIDIA A100-SXM4-40GB", *_GA100)
_A100_80 = Sm("NVIDIA A100-SXM4-80GB", *_GA100)
_H100 = Sm("NVIDIA H100 80GB HBM3", *_GH100)
_H200 = Sm("NVIDIA H200 141GB HBM3e", *_GH100)

# Links: v4 has 6 of 50 GB/s; v5e has 4, with 400 GB/s in both directions together; v5p has 6, with
# 4800 Gbit/s; v6e has 4, with 800 GB/s in both directions. NVLink: 600 GB/s (A100) and 900 GB/s,
# half of it in each direction. HBM: the "95 GB" of v5p are 95.73 GiB for the compiler; for a GPU,
# the figure is what its driver reports.
# fmt: off
_ALL = (
    _tpu("v4", 275e12, hbm=32, usable=30.75, bandwidth=1200e9,
         link=50e9, wraps_at=4, largest=4096, cpus=240),
    _tpu("v5e", 197e12, hbm=16, usable=15.75, bandwidth=819e9,
         link=50e9, wraps_at=16, largest=256, cpus=112),
    _tpu("v5p", 459e12, hbm=95.73, usable=95.73, bandwidth=2765e9,
         link=100e9, wraps_at=4, largest=6144, cpus=208),
    _tpu("v6e", 918e12, hbm=32, usable=31.24, bandwidth=1638e9,
         link=100e9, wraps_at=16, largest=256, cpus=180),
    _gpu("a100-40", _A100_40, 156e12, hbm=42_331_013_120, bandwidth=1555e9, link=300e9, cpus=128),
    _gpu("a100-80", _A100_80, 156e12, hbm=85_100_068_864, bandwidth=2039e9, link=300e9, cpus=128),
    _gpu("h100", _H100, 494.7e12, hbm=84_942_979_072, bandwidth=3352e9, link=450e9, cpus=112),
    _gpu("h200", _H200, 494.7e12, hbm=151_397_597_184, bandwidth=4800e9, link=450e9, cpus=112),
)
# fmt: on

CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}
"""Chips by name. The two cores of a v4 chip are one device ("megacore"), as in its runtime."""

_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "NVIDIA A100-SXM4-40GB": "a100-40",
    "NVIDIA A100-SXM4-80GB": "a100-80",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device, by the name that `jax.Device.device_kind` or torch gives.

    >>> chip_of("TPU v5 lite").name, chip_of("cpu")
    ('v5e', None)
    """
    return CHIPS.get(_KINDS.get(device_kind, ""))

"""The table of chips and the names of topologies."""

import math

import pytest

from train.config import ConfigError
from train.plan.chips import CHIPS, GIB
from train.plan.topology import parse_topology, target_config, tpu_options


@pytest.mark.parametrize(
    ("name", "intensity"),
    [("v4", 229), ("v5e", 241), ("v5p", 166), ("v6e", 560), ("h100", 295), ("h200", 206)],
)
def test_flops_a_byte(name, intensity):
    """Peak bf16 FLOPs for each byte of HBM: a slipped digit in either would show."""
    chip = CHIPS[name]
    assert chip.bf16_flops / chip.hbm_bandwidth == pytest.approx(intensity, rel=0.01)


def test_chips_are_plausible():
    for chip in CHIPS.values():
        assert chip.bf16_flops in (chip.fp32_flops, 2 * chip.fp32_flops)
        assert 0.7 < chip.hbm_usable / chip.hbm_bytes <= 1
        assert 10 * GIB < chip.hbm_bytes < 200 * GIB
        assert chip.link < chip.hbm_bandwidth / 4
        if chip.sm:  # 2 FLOPs a core and clock: the FP32 figures of the data sheets
            cores = chip.sm.count * chip.sm.cores
            expected = {8: 19.5e12, 9: 66.9e12}[chip.sm.capability]
            assert 2 * cores * chip.sm.clock * 1e9 == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "gigabytes"),
    [
        ("v5e:1x1", 1, 1, 0),
        ("v5e:2x2", 4, 1, 100),  # a link on each axis
        ("v5e:8x16", 128, 32, 150),  # the axis of 16 is a ring
        ("v5e:16x16", 256, 64, 200),  # 256 of them: the 51.2 TB/s of the pod's page
        ("v6e:16x16", 256, 64, 400),
        ("v4:2x2x1", 4, 1, 100),
        ("v4:2x2x4", 16, 4, 150),
        ("v4:4x4x8", 128, 32, 300),  # whole cubes close on every axis
        ("v5p:16x16x24", 6144, 1536, 600),
        ("h200", 1, 1, 450),
        ("a100-80:8", 8, 1, 300),
    ],
)
def test_topologies(name, chips, hosts, gigabytes):
    found = parse_topology(name)
    assert (found.chips, found.hosts) == (chips, hosts)
    assert found.wire == gigabytes * 1e9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "choose a TPU with a shape (v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, ...) or a"),
        ("v9:2x2", "a GPU (a100-40, a100-80, h100, h200; h200:8 for eight)"),
        ("v5e", "choose from v5e:1x1, v5e:2x2"),
        ("v5e:3x3", "choose from v5e:1x1, v5e:2x2"),
        ("v5e:32x32", "v5e:16x16"),
        ("v5e:2x2x1", "v5e:2x2"),
        ("v4:2x2", "choose from v4:2x2x1"),
        ("v4:16x16x32", "at most 4096 chips"),
        ("v5p:4x4x6", "multiples of 4 on every axis"),
        ("v4:-4x4x4", "choose from v4:2x2x1"),
        ("h200:9", "write h200, or h200:2 to h200:8 (one host)"),
        ("h200:", "write h200"),
        ("h200:2x2", "write h200"),
    ],
)
def test_unknown_topologies(name, message):
    with pytest.raises(ConfigError) as error:
        parse_topology(name)
    assert str(error.value).startswith(f"topology {name!r}: ") and message in str(error.value)


@pytest.mark.parametrize("name", ["v5e:1x1", "v6e:1x1"])
def test_a_single_chip_is_a_host_of_one(name):
    """libtpu 0.0.42.1 takes a host for 2x2x1 chips where it is not told."""
    assert tpu_options(parse_topology(name)) == {"chips_per_host_bounds": (1, 1, 1)}


@pytest.mark.parametrize(
    "name", ["v4:2x2x1", "v4:4x4x4", "v5e:2x2", "v5e:2x4", "v5e:16x16", "v5p:2x4x4", "v6e:8x16"]
)
def test_larger_slices_are_hosts_of_four_chips(name):
    """They divide the slice, and their number is `Topology.hosts`."""
    topology = parse_topology(name)
    options = tpu_options(topology)
    bounds = options["chips_per_host_bounds"]
    assert bounds == (2, 2, 1)
    assert not any(size % bound for size, bound in zip(topology.shape, bounds, strict=False))
    assert topology.chips == topology.hosts * math.prod(bounds)
    assert options.get("chip_config_name") == ("megacore" if name.startswith("v4") else None)


def test_target_config():
    text = target_config(CHIPS["h200"])
    for line in (
        "core_count: 132",
        "memory_bandwidth: 4800000000000",
        "device_memory_size: 151397597184",
        "shared_memory_per_core: 233472",
        "shared_memory_per_block_optin: 232448",
        "cuda_compute_capability { major: 9 }",
    ):
        assert f"  {line}\n" in text
    assert text.count("{") == text.count("}")

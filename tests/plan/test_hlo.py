"""Reading XLA's programs: small texts counted by hand, and a real program of eight devices."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.plan.hlo import (
    Buffer,
    Collective,
    collectives,
    custom_calls,
    fusions,
    group_size,
    hbm_bytes,
    instructions,
)

TEXTS = Path(__file__).parents[1] / "hlo"
TPU, GPU, LOOP = ((TEXTS / f"{name}.txt").read_text() for name in ("tpu", "gpu", "loop"))


def test_collectives_by_hand():
    """The all-reduce of 256 + 2048 bytes goes over 8, the 2048 bytes of the others over 4."""
    assert collectives(TPU, 8) == {
        "reduce-scatter": Collective(1, 2048, 2048 * 3 / 4),
        "all-reduce": Collective(1, 2304, 2304 * 2 * 7 / 8),
        "all-gather": Collective(1, 4 * 2048, 4 * 2048 * 3 / 4),
    }


def test_an_asynchronous_pair_is_one():
    size = 64 * 56 * 56 * 64 * 2
    assert collectives(GPU, 2) == {"all-reduce": Collective(1, size, float(size))}


def test_hbm_bytes_by_hand():
    """What lies on the chip, S(1), moves nothing; an asynchronous copy moves its bytes once."""
    assert hbm_bytes(TPU) == {
        "copy-start": 128 * 256 * 2,
        "slice-start": 16 * 256 * 2,
        "fusion": (2048 + 2048) + (512 + 2048),  # %p1 once, f32[64,8]; then the scatter
        "all-reduce": 2048 + 2048,
        "all-gather-start": 2048 + 4 * 2048,
        "custom-call": 0,
    }
    size = 64 * 56 * 56 * 64 * 2
    kernel = 64 * 3 * 3 * 64 * 2
    assert hbm_bytes(GPU) == {
        "custom-call": 2 * size + 128 + kernel,
        "all-reduce-start": 2 * size,
        "fusion": 2 * size,
    }


def test_kernels_and_libraries():
    assert fusions(TPU) == 2 and fusions(GPU) == 1
    assert custom_calls(TPU) == {"ConcatBitcast": 1}
    assert custom_calls(GPU) == {"__cudnn$convForward": 1}


def test_types_and_operands():
    found = {it.name: it for it in instructions(TPU)}
    assert found["fusion.1"].result == [Buffer(256, True, 64), Buffer(2048, False, 64)]
    assert found["fusion.1"].operands == ["copy-done.1", "p1", "p1"]
    assert found["all-reduce.9"].computation == "all-reduce-scatter.1"
    assert [b.bytes for b in found["copy-start.1"].result] == [65536, 65536, 4]
    odd = "  %t = (pred[3], s4[3], f8e4m3fn[5], u64[2], c64[2], token[]) tuple(%a)"
    assert [b.bytes for b in next(instructions(odd)).result] == [3, 2, 5, 16, 16, 0]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={}, to_apply=%add", 16),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", 2),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['axis_0'=4] {'axis_0'}, use_global_device_ids=true", 4),
        ("replica_groups=mesh['data'=2,'fsdp'=8] {'data','fsdp'}", 16),
        ("replica_groups=mesh['data'=2,'fsdp'=8] {'fsdp':(2)4}", 4),
    ],
)
def test_group_size(text, size):
    assert group_size(text, 16) == size


def test_a_real_program(devices):
    """A gradient over eight devices: one sum of the weights' bytes, sent 7/4 times by a ring."""
    mesh = Mesh(devices, ("data",))
    whole, cut = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    step = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))),
        in_shardings=(whole, cut),
        out_shardings=whole,
    )
    weights, rows = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((48, 24), (64, 48)))
    text = step.lower(weights, rows).compile().as_text()
    size = 48 * 24 * 4
    assert collectives(text, 8) == {"all-reduce": Collective(1, size, size * 7 / 4)}


def test_a_loop_counts_as_often_as_it_runs():
    """Each of eight trips reads 64 floats and a row of the stack, writes 64, and sums 64; then it
    reads 64 and writes a row in place."""
    assert collectives(LOOP, 4) == {"all-reduce": Collective(8, 8 * 256, 8 * 256 * 2 * 3 / 4)}
    fusions_in_it = 8 * 256 * (1 + 1 + 1) + 8 * 256 * (1 + 1)
    assert hbm_bytes(LOOP) == {"fusion": 2 * 256 + fusions_in_it, "all-reduce": 8 * 2 * 256}
    known = LOOP.replace("body=%body.1", 'body=%body.1, x={"known_trip_count":{"n":"5"}}')
    assert collectives(known, 4)["all-reduce"].count == 5

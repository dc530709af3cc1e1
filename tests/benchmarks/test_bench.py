"""`resnet-jax bench`: measurements of a tiny network, and the arithmetic of the results."""

import doctest
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import train.cli.bench
from benchmarks import memory, profiler, program, record, report, step
from benchmarks.interleaved import Sample
from benchmarks.record import emit, spread
from benchmarks.systems import registry
from benchmarks.workloads import Unsupported, read_case
from tests.runs import tiny
from train import __main__ as command_line
from train.config import ConfigError
from train.distributed.mesh import make_mesh
from train.plan.chips import chip_of
from train.plan.compile import compile_step
from train.run.parts import Run


@pytest.mark.parametrize("module", [memory, record, report])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_cases():
    config = read_case("resnet18,32,64")
    assert config.model.name == "resnet18" and config.optim.nesterov
    assert (config.batch_size, config.data.image_size) == (32, 64)
    small = read_case("resnet20_cifar,128")
    assert (small.data.name, small.batch_size, small.data.image_size) == ("cifar10", 128, 32)
    assert read_case("digits").data.name == "digits"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("resnet20_cifr", "case 'resnet20_cifr': .* did you mean resnet20_cifar, "),
        ("digit", "did you mean digits?"),
        ("resnet50,x", r"write NAME\[,BATCH\[,PIXELS\]\]"),
        ("resnet50,0", "write NAME"),
        ("resnet50,8,64,3", "write NAME"),
    ],
)
def test_bad_cases(text, says):
    with pytest.raises(ConfigError, match=says):
        read_case(text)


@pytest.fixture(scope="module")
def row(tmp_path_factory) -> dict:
    """The row of a tiny network, with two peers that are not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.NEEDS, "haiku", {"no_such_module": "dm-haiku"})
        args = step.StepArgs(
            tiny(), peers=("haiku", "jax-resnet"), rounds=3, samples=2, warm_seconds=0.0
        )
        patch.setitem(registry.NEEDS, "jax-resnet", {"no_such_module": "jax-resnet"})
        return json.loads(json.dumps(step.measure(args)))


def test_a_real_step(row):
    ours = row["systems"]["ours"]
    assert row["case"] == "digits,32,8" and row["precision"] == "fp32"
    assert row["images_per_second"]["ours"]["n"] == 3 and ours["step_seconds"]["n"] == 6
    low, high = ours["step_seconds"]["min"], ours["step_seconds"]["max"]
    assert 0.99 * 32 / high < row["images_per_second"]["ours"]["median"] < 1.01 * 32 / low
    assert 0 < ours["step_seconds"]["median"] < ours["first_step_seconds"]
    assert ours["warmup_steps"] == 3 and ours["steps_a_sample"] >= 1
    assert ours["steps_a_sample"] * high > 0.02  # a step of milliseconds is not timed alone
    assert math.isfinite(ours["loss"]) and ours["flops"] > 0
    assert ours["peak_bytes"] > ours["temporary_bytes"] > 0
    assert ours["mfu"] is None and ours["device"] == "cpu"  # no published peak
    assert {"jax", "jaxlib", "flax"} <= set(row["versions"])
    assert row["host_cores"] >= 1 and row["flags"]["JAX_PLATFORMS"] == "cpu" and row["commit"]


def test_absent_peers_are_named(row):
    assert row["not_here"] == {
        "haiku": "not installed: pip install dm-haiku",
        "jax-resnet": "not installed: pip install jax-resnet",
    }
    assert row["ours_over"] == {} and set(row["systems"]) == {"ours"}


def test_a_system_without_the_network_is_unsupported():
    with pytest.raises(Unsupported, match="resnet8_cifar: choose from resnet18, resnet50"):
        registry.make_stepper("flax", tiny())


def test_ratios():
    """Ratios within a round: a round that is slow for both does not change the ratio."""
    seconds = {"ours": [[1, 2, 9], [4, 4, 4]], "flax": [[4, 4, 1], [8, 9, 7]]}
    turns = {
        name: [[Sample(s, 0.0) for s in turn] for turn in found] for name, found in seconds.items()
    }
    found = step.results(turns, batch_size=8)
    assert found["images_per_second"]["ours"] == {"median": 3.0, "min": 2.0, "max": 4.0, "n": 2}
    assert found["ours_over"] == {"flax": {"median": 2.0, "min": 2.0, "max": 2.0, "n": 2}}


def test_model_flops():
    """The 4.089 G multiply-adds of ResNet-50, for 2 images; no data set is opened for it."""
    assert step.model_flops(read_case("resnet50,2")) == 6 * 2 * 4_089_184_256
    assert chip_of("NVIDIA H200").bf16_flops == 989.4e12


def test_rows_become_tables_and_a_plot(row, tmp_path, capsys):
    old = {**row, "command": "resnet-jax bench step", "ours_over": {"flax": spread([9.0])}}
    new = {**old, "ours_over": {"flax": spread([2.0, 3.0, 1.0])}}
    new["images_per_second"] = {"ours": spread([1230.0]), "flax": spread([617.0])}
    for each in (old, new):
        emit(each, tmp_path / "deep" / "rows.jsonl")
    emit({"benchmark": "memory", "case": "x", "device": "h200", "largest_batch": 2048}, None)
    # a row without a case is not in the plot, but its ratios are in a table
    ours = {"ours_over": {"tf.data": spread([0.96])}}
    emit({"benchmark": "input", "cores": 2, **ours}, tmp_path / "deep" / "rows.jsonl")
    capsys.readouterr()
    report.main([str(tmp_path / "deep" / "rows.jsonl"), "--plot", str(tmp_path / "plot.svg")])
    said = capsys.readouterr().out
    assert "617; **2** (1 to 3)" in said and "1,230 (1,230 to 1,230)" in said
    assert "`resnet-jax bench step`, rows.jsonl" in said
    assert "ours over: tf.data" in said and "0.96 (0.96 to 0.96)" in said
    assert "9" not in said.split("**")[3]  # the older row of the same command is gone
    assert (tmp_path / "plot.svg").read_text().count("<svg") == 1
    with pytest.raises(ConfigError, match=r"no_such\.jsonl: No such file"):
        report.read([Path("no_such.jsonl")])


PEAKS = {
    "linear": lambda batch: 100 + 10 * batch,
    "convex": lambda batch: 100 + batch**1.5,
    "concave": lambda batch: 200 * batch**0.5,
    "wall": lambda batch: 5 * batch if batch < 640 else math.inf,
    "steps": lambda batch: 700 * (batch // 64 + 1),
}


@pytest.mark.parametrize("name", PEAKS)
@pytest.mark.parametrize("start", [8, 128, 4096])
def test_largest_fitting(name, start):
    peak, tried = PEAKS[name], []

    def counted(batch: int) -> float:
        assert batch % 8 == 0 and batch not in tried
        tried.append(batch)
        return peak(batch)

    expected = max(batch for batch in range(8, 4096, 8) if peak(batch) <= 7000)
    assert memory.largest_fitting(counted, 7000, granule=8, start=start) == expected
    assert len(tried) <= 20


def test_nothing_fits():
    assert memory.largest_fitting(lambda batch: 1e9, 1000, granule=8, start=64) == 0


def test_memory_of_a_real_step():
    """A limit between the compiled sizes of two batches."""

    def peak(batch: int) -> int:
        config = tiny(batch_size=batch)
        run = Run(config, mesh=make_mesh(jax.devices()[:1]))
        return compile_step(run, "cpu", 2**40)[0]["memory"]["peak"]

    low, high = peak(32), peak(64)
    args = memory.MemoryArgs(tiny(), limit=(low + high) / 2 / 2**30, granule=32)
    found = memory.measure(args)
    assert found["largest_batch"] == 32 and found["peak_bytes"] == low
    assert found["tried"]["64"] == high and found["device"] == "cpu"


def test_program_counts():
    text = """
%fused (p: f32[8]) -> f32[8] {
  ROOT %copy.9 = f32[8]{0} copy(%p)
}

ENTRY %main (a: bf16[128,56,56,64], w: f32[3,3,64,64]) -> bf16[128,56,56,64] {
  %a = bf16[128,56,56,64]{3,2,1,0} parameter(0)
  %w = f32[64]{0} parameter(1)
  %copy.1 = bf16[128,56,56,64]{2,3,1,0} copy(%a)
  %copy.2 = f32[64]{0} copy(%w)
  %input_transpose_fusion = bf16[128,64,56,56]{3,2,1,0} fusion(%copy.1), kind=kInput, calls=%fused
  %conv = (bf16[128,56,56,64]{3,2,1,0}, u8[0]{0}) custom-call(%copy.1, %w), custom_call_target="dnn"
  ROOT %out = bf16[128,56,56,64]{3,2,1,0} get-tuple-element(%conv), index=0
}
"""
    assert program.count(text, batch=128) == {
        "kernels": 4,
        "small": 1,
        "fusions": 1,
        "copies": 2,
        "custom_calls": {"dnn": 1},
        "activation_copies": 2,
    }


def test_kernels_of_a_trace(tmp_path):
    """Each kernel is found as often as it ran."""
    multiply = jax.jit(lambda a, b: jnp.sin(a) @ b)
    a = jnp.ones((256, 256))
    multiply(a, a).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            multiply(a, a).block_until_ready()
    (path,) = tmp_path.rglob("*.xplane.pb")
    found = profiler.table(profiler.kernels(path), steps=3, top=2)
    assert found["kernels"] == 2  # the sine and the product
    sine = next(kernel for kernel in found["top"] if "sin" in kernel["name"])
    assert sine["count"] == 1 and 0 < sine["ms"] < found["busy_ms"]
    assert sum(kernel["share"] for kernel in found["top"]) <= 1.0001


def test_shares_of_kernels():
    found = [("fusion.1", 3.0), ("fusion.2", 1.0), ("conv", 4.0), ("fusion.1", 2.0)]
    table = profiler.table(found, steps=2, top=1)
    assert table["busy_ms"] == 5000 and table["kernels"] == 2
    assert table["top"] == [{"name": "fusion.1", "ms": 2500, "share": 0.5, "count": 1}]
    assert table["top_kinds"] == [{"name": "fusion", "ms": 3000, "share": 0.6, "count": 1.5}]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nonsense"], "unknown command 'bench nonsense': choose from step, end_to_end"),
        (["step", "digits", "--peers", "caffe"], "peer 'caffe': choose from ours, "),
        (["step", "digits", "--rounds", "0"], "rounds 0: must be at least 1"),
        (["startup", "--n", "0"], "argument --n: must be at least 1, and is 0"),
        (["input", "--batches", "0"], "argument --batches: must be at least 1, and is 0"),
        (["compile", "resnet5"], "unknown model 'resnet5': did you mean"),
        (["compile", "resnet50,fast"], "case 'resnet50,fast': write "),
        (["memory", "digits", "--limit", "-1"], "limit -1.0: must be positive"),
        (
            ["profile", "digits", "--system", "torchvision"],
            "'torchvision': must be a system in JAX",
        ),
        (
            ["program", "resnet50", "--systems", "torchvision"],
            "'torchvision': must be a system in JAX",
        ),
        (["end_to_end", "digits", "folder"], "takes one recipe, not 2"),
        (["report", "--only", "nonsense"], "only 'nonsense': there are results of"),
    ],
)
def test_mistakes(args, says, capsys, monkeypatch):
    # run as a program, it must not be imported already
    monkeypatch.delitem(sys.modules, f"benchmarks.{args[0]}", raising=False)
    try:
        code = command_line.main(["bench", *args])
    except SystemExit as ended:  # argparse's own rule
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2 and says in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["step", "end_to_end", "memory", "profile", "program", "report"])
def test_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["bench", name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"resnet-jax bench {name}" in said and "--" in said


def test_without_a_checkout(monkeypatch, tmp_path, capsys):
    """An installed wheel has no benchmarks."""
    monkeypatch.setattr(train.cli.bench, "__file__", str(tmp_path / "train" / "cli" / "bench.py"))
    assert command_line.main(["bench", "step"]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1
    assert err.startswith("error: bench: ") and "need a checkout" in err and "git clone" in err

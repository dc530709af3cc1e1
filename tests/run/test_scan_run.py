"""Runs with blocks in a loop: what they start from, resume, and leave behind."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from resnet_jax import load_weights, stack_blocks, unstack_blocks
from tests.resnet_jax.test_scan import equal
from tests.run.test_fit import stopping_at
from tests.runs import tiny
from train.__main__ import main
from train.config import CheckpointConfig, ConfigError, InitConfig, ModelConfig, RunConfig, RunError
from train.distributed.mesh import make_mesh
from train.inference.evaluate import read_weights
from train.plan.compile import compile_step
from train.run.evaluate import evaluate
from train.run.fit import fit
from train.run.parts import Run

SHAPE = {"depths": (4,), "width": 8}


def deep(scan: bool | None = True, **changes: object) -> RunConfig:
    """Twelve steps of four blocks."""
    model = ModelConfig(name="resnet8_cifar", drop_path=0.1, **SHAPE)
    often = {"checkpoint": CheckpointConfig(), "eval": replace(tiny().eval, every="12st")}
    return tiny(model=model, scan=scan, duration="12st", ema_decay=0.9, **often, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    fit(deep(), workdir, quiet=True)
    return workdir


def test_which_runs_do():
    assert RunConfig(model=ModelConfig(name="resnet152")).scans
    assert RunConfig(model=ModelConfig(name="resnet110_cifar")).scans
    assert not RunConfig(model=ModelConfig(name="resnet152"), scan=False).scans
    assert not RunConfig(model=ModelConfig(name="resnet50")).scans
    assert not RunConfig(model=ModelConfig(name="lenet5")).scans


def test_a_run_starts_where_the_plain_one_does():
    looped, plain = (Run(deep(scan)).new_state() for scan in (True, None))
    assert looped.params["backbone"]["stage1"].keys() == {"block1", "blocks"}
    assert equal(unstack_blocks(looped), plain)


def test_it_resumes_bit_for_bit_and_only_as_it_is(trained, tmp_path, monkeypatch):
    assert json.loads((trained / "config.json").read_text())["scan"] is True
    with monkeypatch.context() as patch:
        stopping_at(patch, 7, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 7 of 12, saved"):
            fit(deep(), tmp_path, quiet=True)
    with pytest.raises(ConfigError, match="scan: True -> None"):
        fit(deep(None), tmp_path, quiet=True)
    fit(deep(), tmp_path, quiet=True)
    whole, cut = (read_weights(deep(), run, "last").variables for run in (trained, tmp_path))
    assert equal(whole, cut) and "blocks" in whole["params"]["backbone"]["stage1"]


def test_its_weights_leave_and_come_back_plain(trained, tmp_path, capsys):
    file = tmp_path / "model.npz"
    assert main(["convert", str(trained), str(file)]) == 0
    kept = read_weights(deep(), trained, "best").variables
    plain = load_weights(file, "resnet8_cifar", 10, **SHAPE)
    assert equal(stack_blocks(plain), kept)
    tensors = len(jax.tree.leaves(plain))
    assert f"{tensors} tensors, {sum(x.size for x in jax.tree.leaves(kept['params'])):,}" in (
        capsys.readouterr().out
    )
    init = InitConfig(weights=str(file), head="keep")
    eval_weights = {}
    for scan, wanted in ((True, kept), (None, plain)):
        run = Run(deep(scan, init=init))
        state = run.new_state()
        assert equal(state.variables, wanted) and equal(state.ema, wanted)
        eval_weights[scan] = evaluate(run, {"raw": state.variables}).metrics["raw"]
    assert eval_weights[True] == pytest.approx(eval_weights[None], rel=1e-5)


def test_a_plan_counts_every_trip(devices):
    """FLOPs are about those of the plain network, counted after optimisation; one trip of three
    would have half of them. Of the sums over devices there are as many bytes."""
    found = {}
    for scan in (True, False):
        run = Run(deep(scan, norm_group_size="device"), mesh=make_mesh(devices))
        found[scan], _ = compile_step(run, "cpu", usable=2**30)
    looped, plain = found[True], found[False]
    assert looped["flops_of"] == "the program before optimisation"
    assert looped["flops"] == pytest.approx(plain["flops"], rel=0.2)
    both = [each["collectives"]["all-reduce"]["bytes"] for each in (looped, plain)]
    assert both[0] == both[1]

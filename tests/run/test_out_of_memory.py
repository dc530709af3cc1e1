"""Out of memory: what was asked, what there is, and a batch that fits."""

import re
import subprocess
from dataclasses import replace

import jax
import pytest

from tests.runs import command, environment, tiny
from train.config import RunError
from train.distributed.mesh import make_mesh
from train.plan.compile import compile_step
from train.run import out_of_memory
from train.run.evaluate import evaluate
from train.run.parts import Run

SAID = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4831838208 bytes.\nBufferAssignment"
)


def failing(explain, error: Exception) -> str:
    with pytest.raises(RunError) as caught, out_of_memory.explained(explain):
        raise error
    return str(caught.value)


@pytest.fixture(scope="module")
def run() -> Run:
    return Run(tiny(batch_size=256), mesh=make_mesh(jax.devices()[:1]))


def test_a_batch_that_fits_by_the_compiler(run, monkeypatch):
    needed = compile_step(run, "cpu", usable=2**40)[0]["memory"]["peak"]
    limit = int(0.55 * needed)
    monkeypatch.setattr(out_of_memory, "usable", lambda: limit)
    said = failing(out_of_memory.for_training(run), jax.errors.JaxRuntimeError(SAID))
    assert said.startswith(
        f"out of memory: Out of memory while trying to allocate 4.50 GiB. cpu has "
        f"{limit / 2**30:.2f} GiB. The step of resnet8_cifar takes 256 images of 8 pixels, 256 on "
        f"each device, in fp32, and needs {needed / 2**30:.2f} GiB according to the compiler. "
        "--batch_size "
    )
    assert said.endswith(" GiB per device) should fit")
    found = int(re.search(r"--batch_size (\d+)", said)[1])
    assert 64 <= found < 256
    smaller = Run(replace(run.config, batch_size=found), mesh=run.mesh)
    assert compile_step(smaller, "cpu", usable=limit)[0]["fits"]


def test_what_a_tpu_says_needs_no_second_compilation(run, monkeypatch):
    monkeypatch.setattr(out_of_memory, "_compiled_peak", pytest.fail)
    monkeypatch.setattr(out_of_memory, "usable", lambda: 2**30)
    hbm = "RESOURCE_EXHAUSTED: HLO temporaries (2.00G) exceeds available HBM (1.00G)"
    said = failing(out_of_memory.for_training(run), jax.errors.JaxRuntimeError(hbm))
    assert "needs 2.00 GiB according to the compiler" in said and "--batch_size 112 (about" in said


def test_where_the_step_would_fit_others_take_the_memory(run, monkeypatch):
    monkeypatch.setattr(out_of_memory, "usable", lambda: 2**40)
    said = failing(out_of_memory.for_training(run), jax.errors.JaxRuntimeError(SAID))
    assert "Try --batch_size 128, and look for other programs" in said


def test_nothing_is_known_of_several_processes(run, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    said = failing(out_of_memory.for_training(run), jax.errors.JaxRuntimeError(SAID))
    assert "according to the compiler" not in said and "--batch_size 128" in said


def test_the_hosts_memory(run):
    error = MemoryError("Unable to allocate 45.8 GiB for an array")
    said = failing(out_of_memory.for_evaluation(run, 64), error)
    assert said.startswith("out of memory on the host: Unable to allocate 45.8 GiB for an array. ")
    assert "--eval.batch_size 32" in said


def test_an_evaluation_names_its_own_option(run, monkeypatch):
    def fails(*_):
        raise jax.errors.JaxRuntimeError(SAID)

    monkeypatch.setitem(vars(run), "eval_step", fails)
    with pytest.raises(RunError, match=r"out of memory: .* --eval.batch_size 64, "):
        evaluate(run, {"raw": run.new_state().variables})


def test_other_errors_pass(run):
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        out_of_memory.explained(out_of_memory.for_training(run)),
    ):
        raise error


def test_a_run_with_too_little_memory_ends_with_one_message(tmp_path):
    """A process that may have 10 GB of addresses, and a step that takes 14."""
    images = ("--data.name", "synthetic", "--data.image_size", "256", "--data.examples", "512")
    model = ("--model.name", "resnet8_cifar", "--model.depths", "1", "1", "--model.width", "8")
    options = (*model, *images, "--data.classes", "4", "--batch_size", "512", "--duration", "1st")
    run = command("train", "digits", "--workdir", str(tmp_path / "run"), *options)
    limited = ["bash", "-c", 'ulimit -v 10000000 && exec "$@"', "bash", *run]
    done = subprocess.run(limited, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert re.match(r"error: out of memory: Out of memory .* cpu has \d\.\d\d GiB\. ", line), line
    found = int(re.search(r"--batch_size (\d+) \(about .* should fit$", line)[1])
    assert 128 < found < 512

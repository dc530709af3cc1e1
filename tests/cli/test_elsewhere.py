"""A run that goes on with other devices: the same batches, the same losses to rounding."""

import json
import signal
import subprocess

import pytest

from tests.runs import TINY, command, environment, resnet_jax

SAME = ("step", "split", "examples")


def test_a_run_goes_on_with_other_devices(tmp_path):
    """Stopped on eight devices with a cut state, resumed on two: against one that did it all."""
    train = ["train", "digits", *TINY, "--precision", "fp32", "--workdir"]
    alone, moved = tmp_path / "alone", tmp_path / "moved"
    done = resnet_jax(*train, str(alone))
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        command(*train, str(moved), "--mesh.fsdp", "4"),
        env=environment(8, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        next(line for line in child.stdout if line.startswith("step 20/60"))
        child.send_signal(signal.SIGTERM)
        _, stderr = child.communicate()
    assert child.returncode == 1 and "saved; the same command resumes" in stderr
    stopped = max(int(p.name) for p in (moved / "checkpoints").iterdir() if p.name.isdigit())
    assert 20 <= stopped < 60
    resumed = resnet_jax(*train, str(moved), devices=2)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumes after step {stopped} of 60" in resumed.stdout
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (alone, moved)
    ]
    assert len(rows[0]) == len(rows[1]) == 9
    for a, b in zip(*rows, strict=True):
        assert [a.get(key) for key in SAME] == [b.get(key) for key in SAME]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)

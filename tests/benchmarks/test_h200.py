"""`python -m benchmarks.h200`: all parts at a small size, and failures of parts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import (
    cli,
    end_to_end,
    gpu_parts,
    h200,
    interleaved,
    profiler,
    step,
    training,
    wheels,
)
from benchmarks.gpu_parts import TINY, Part, Sizes
from tests.runs import ROOT, environment, tiny

NAMES = ["right", "step", "jax", "profile", "cifar", "batches", "photos"]
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> Path:
    """The output folder of the whole command, at its small size."""
    out = tmp_path_factory.mktemp("h200") / "out"
    env = {**environment(), "XLA_FLAGS": QUICK}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.h200", "--tiny", "--minutes", "20", "--out", str(out)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "### training" in done.stdout
    return out


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_part_ends_well(tried):
    ends = rows(tried / "parts.jsonl")
    assert list(dict.fromkeys(row["part"] for row in ends)) == NAMES
    assert [row["exit"] for row in ends] == [0] * 8  # cifar has two commands without `--cifar`
    assert (tried / "log.txt").read_text().count("\npython -m ") == 7
    files = {path.name for path in tried.iterdir()}  # and no made-up data
    assert files == {"rows.jsonl", "parts.jsonl", "log.txt", "report.md"}


def test_every_part_has_its_figures(tried):
    found = rows(tried / "rows.jsonl")
    kinds = ["right", "step", "step", "profile", "end_to_end", "training_rate", "training"]
    assert [row["benchmark"] for row in found] == [*kinds, "step", "end_to_end"]
    right, peers, linen, kernels, cifar, _, digits, batch, photos = found
    assert right["passed"] == 10 and right["failed"] == right["skipped"] == 0
    for name in ("torchvision", "torchvision-compile"):  # measured, or what to install
        assert name in peers["ours_over"] or "pip install torch" in peers["not_here"][name]
    assert set(linen["ours_over"]) == {"ours-plain-norm", "flax"} and not linen["not_here"]
    assert len(kernels["top"]) == 10
    assert cifar["data"] == "npz" and cifar["images_per_second"]["median"] > 0
    assert digits["steps"] == digits["recipe_steps"] == 10 and digits["evaluated_on"] == 359
    assert 0 <= digits["top1"] <= digits["best_top1"] < 0.5
    assert batch["batch_size"] == photos["batch_size"] == 4 and photos["data"] == "folder"
    report = (tried / "report.md").read_text()
    assert all(f"### {row['benchmark']}\n" in report for row in found)


@pytest.mark.parametrize("sizes", [Sizes(), TINY], ids=["full", "tiny"])
@pytest.mark.parametrize("given", [True, False], ids=["real data", "made-up data"])
def test_the_command_lines_can_be_read(sizes, given, tmp_path, monkeypatch):
    """The commands accept the options of the full size."""
    measured: list[str] = []

    def measure(name: str):
        return lambda args, *_: measured.append(name) or {"not_here": {}}

    for module in (step, end_to_end, profiler, training):
        monkeypatch.setattr(module, "measure", measure(module.__name__))
    first = {"images_per_second": {"median": 1.0}, "examples": 9}
    monkeypatch.setattr(training, "pilot", lambda args: (dict(first), 0.0))
    for name in ("arrays", "photos"):
        monkeypatch.setattr(gpu_parts.synthetic_data, name, lambda folder, count: folder / "made")
    folder = tmp_path if given else None
    for part in gpu_parts.parts(tmp_path / "rows.jsonl", tmp_path, sizes, folder, folder).values():
        for python, module, *args in part.commands(100.0):
            assert python == "-m" and module in ("pytest", "train")
            if module == "train":
                assert args[0] == "bench" and args[-2:] == ["--out", str(tmp_path / "rows.jsonl")]
                cli.bench(args[1:])
    counts = {name: measured.count(f"benchmarks.{name}") for name in ("step", "end_to_end")}
    assert counts == {"step": 2 + len(sizes.batches), "end_to_end": 1 if given else 2}
    assert measured.count("benchmarks.profiler") == measured.count("benchmarks.training") == 1


def test_the_shares_are_nine_minutes():
    every = gpu_parts.parts(Path("rows"), Path("scratch"), Sizes(), None, None)
    assert list(every) == NAMES and sum(part.seconds for part in every.values()) == 540


def run(tmp_path, monkeypatch, *args: str, **commands: list[list[str]]) -> int:
    made = {name: Part(10, lambda left, each=each: each) for name, each in commands.items()}
    monkeypatch.setattr(h200, "parts", lambda *_: made)
    return h200.main(["--out", str(tmp_path), "--scratch", str(tmp_path), *args])


def test_a_part_that_fails_is_reported_and_the_others_continue(tmp_path, monkeypatch, capfd):
    bad = [
        "-c",
        "import sys; print('error: data.resident: choose on', file=sys.stderr); sys.exit(2)",
    ]
    good = ["-c", "print('well')"]
    assert run(tmp_path, monkeypatch, bad=[bad, good], good=[good]) == 1
    said = capfd.readouterr()
    assert "bad: exit code 2 after 0 s: error: data.resident: choose on\n" in said.out
    assert said.err.startswith("failed: bad: exit code 2") and said.err.count("\n") == 1
    ends = [(row["part"], row["exit"]) for row in rows(tmp_path / "parts.jsonl")]
    assert ends == [("bad", 2), ("bad", 0), ("good", 0)]
    assert (tmp_path / "log.txt").read_text().endswith("well\n")
    assert run(tmp_path / "again", monkeypatch, good=[good]) == 0


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path, monkeypatch, capfd):
    """Time that a part does not use is for the next one."""
    monkeypatch.setattr(h200, "MIN_SECONDS", 0.5)
    child = "import time; time.sleep(60)"
    code = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
pathlib.Path("pid").write_text(str(child.pid))
time.sleep(60)"""
    slow, quick = ["-c", code], ["-c", "pass"]
    since = time.monotonic()
    minutes = ["--minutes", str(10 / 60)]  # 5 s for each
    assert run(tmp_path, monkeypatch, *minutes, quick=[quick], slow=[slow, quick]) == 1
    assert 9 < time.monotonic() - since < 20
    said = capfd.readouterr().out
    assert "slow: stopped after " in said and "slow: not started: 0 s are left" in said
    assert float(said.split("stopped after ")[1].split(" s")[0]) > 6
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 30  # SIGKILL has been sent; on a busy machine it takes a moment
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--only", "steps"], "--only steps: choose from right, step, jax, profile, cifar"),
        (["--cifar", "nowhere"], "--cifar nowhere: no such folder"),
        (["--photos", "nowhere"], "--photos nowhere: no such folder"),
    ],
)
def test_mistakes(args, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        h200.main(["--out", str(tmp_path), *args])
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_failing_tests_are_counted(tmp_path):
    path = tmp_path / "right.xml"
    cases = '<testcase name="a"/><testcase name="b"><failure/></testcase>'
    cases += '<testcase name="c"><skipped/></testcase><testcase name="d"><error/></testcase>'
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    found = h200.tests(path)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    assert found["failures"] == ["b", "d"]


def test_a_peer_that_is_late_or_dies_is_skipped_and_is_an_error(tmp_path, monkeypatch, capsys):
    """After the other results are written."""
    absent = {
        "haiku": "not installed: pip install dm-haiku",
        "flax": "not ready in time (--seconds)",
    }
    monkeypatch.setattr(step, "measure", lambda args: {"benchmark": "step", "not_here": absent})
    out = tmp_path / "rows.jsonl"
    with pytest.raises(step.RunError, match=r"^flax: not ready in time \(--seconds\)$"):
        step.main(["digits", "--out", str(out)])
    assert rows(out)[0]["not_here"] == absent
    monkeypatch.setattr(step, "measure", lambda args: {"not_here": {"haiku": absent["haiku"]}})
    step.main(["digits"])


def test_wheels_that_are_missing_on_the_machine(tmp_path, monkeypatch):
    asked = []

    def resolved(wanted):
        asked.append(list(wanted))
        return {"jax": "0.11.2", "numpy": "2.5.2", "grain": "0.2.18", "pyarrow": "26.0.1"}

    monkeypatch.setattr(wheels, "resolved", resolved)
    assert wheels.names_there(["jax==0.11.2"]) == (["jax==0.11.2"], [*resolved([])])
    frozen = tmp_path / "there.txt"
    frozen.write_text("jax==0.11.2\nNumPy==2.5.2\n# a comment\n-e git+x\ntorch==2.11.0+cu130\n")
    pinned, names = wheels.names_there([str(frozen)])
    assert pinned == ["jax==0.11.2", "NumPy==2.5.2", "torch==2.11.0+cu130"]
    assert wheels.missing(resolved([]), names) == ["grain==0.2.18"]
    needed = wheels.requirements()
    assert any(x.startswith("grain>=") for x in needed) and "pytest" in needed


def test_the_documented_commands_are_there():
    text = (ROOT / "docs/measure-gpu.md").read_text()
    assert "python -m benchmarks.h200 --out" in text and "python3.12 -m benchmarks.wheels" in text
    assert all(f"| {name} |" in text for name in NAMES)


def test_a_system_that_is_not_ready_in_time_is_absent():
    system = interleaved.System("ours", tiny(), seconds=0.05)
    assert system.absent == interleaved.LATE and not system.facts
    system.close()

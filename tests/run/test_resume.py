"""What a run's directory holds when a training starts there, and what may differ from it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train.__main__
import train.run.fit
from tests.run.test_fit import content
from tests.runs import tiny
from train.config import CheckpointConfig, ConfigError, DataConfig, OptimConfig, RunConfig
from train.report.metrics_file import read_metrics
from train.run.directory import read_class_names, read_config, write_config
from train.run.fit import fit
from train.run.parts import Run
from train.run.resume import check_duration, check_workdir, describe_extension, record_segments

SHORT = tiny(duration="20st", checkpoint=CheckpointConfig(every=""), ema_decay=0.9)


def changed(**changes: Any) -> RunConfig:
    return replace(SHORT, **changes)


def begun(workdir: Path, config: RunConfig = SHORT, *checkpoints: str) -> Path:
    """A directory as a run leaves it that came so far."""
    for name in checkpoints:
        (workdir / "checkpoints" / name).mkdir(parents=True)
    (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_config(workdir, Run(config), 1)
    return workdir


# What holds nothing


@pytest.mark.parametrize("left", [(), ("20.orbax-checkpoint-tmp-1",), ("20.deleted",)])
def test_options_of_a_start_that_failed_are_replaced(tmp_path, left):
    workdir = begun(tmp_path, SHORT, *left)
    assert check_workdir(workdir, SHORT) is None
    said = check_workdir(workdir, changed(batch_size=16))
    assert said and said.startswith(f"{workdir} holds the options of a run without a checkpoint")


@pytest.mark.parametrize("left", ["20", "20.corrupt"])
def test_what_has_a_checkpoint_is_another_run(tmp_path, left):
    with pytest.raises(ConfigError, match=r"(?s)another run.*batch_size: 32 -> 16"):
        check_workdir(begun(tmp_path, SHORT, left), changed(batch_size=16))


def test_a_report_is_that_of_a_run_that_ended(tmp_path):
    """Somebody deleted its checkpoints; its figures stay."""
    workdir = begun(tmp_path)
    (workdir / "report").mkdir()
    (workdir / "report" / "index.html").write_text("")
    with pytest.raises(ConfigError, match="another run"):
        check_workdir(workdir, changed(batch_size=16))


@pytest.mark.parametrize("text", ["{", '{"seed": 0, "later": 1}', "[]"])
def test_a_config_that_cannot_be_read_keeps_nobody_out(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert "the new options replace them" in str(check_workdir(tmp_path, SHORT))


def test_the_corrected_command_trains(tmp_path, capsys):
    """After one that failed when its data, classes included, were others."""
    begun(tmp_path, changed(data=DataConfig(name="synthetic", image_size=8, classes=3)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "split": "train", "loss": 1.0}\n')
    (tmp_path / "anomaly.json").write_text("{}")
    fit(changed(duration="2st"), tmp_path)
    assert (
        "options of a run without a checkpoint; the new options replace them"
        in capsys.readouterr().out
    )
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2, 2]
    assert read_config(tmp_path) == changed(duration="2st")
    assert len(read_class_names(tmp_path)) == 10 and not (tmp_path / "anomaly.json").exists()


# What a config.json of another version says


@pytest.mark.parametrize("where", [(), ("optim",), ("model",)])
def test_fields_of_another_version_are_all_named(tmp_path, where):
    path = begun(tmp_path) / "config.json"
    tree = json.loads(path.read_text())
    section = tree
    for key in where:
        section = section[key]
    section |= {"newer": 3, "newest": [1]}
    tree["versions"]["resnet-jax"] = "9.0"
    path.write_text(json.dumps(tree))
    prefix = ".".join([*where, ""])
    message = (
        rf"{re.escape(str(path))}: this version of resnet-jax \(.*\) does not know "
        rf"{prefix}newer \(3\), {prefix}newest \(\[1\]\); version 9.0 wrote the file\. .*delete"
    )
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)
    del section["newer"], section["newest"]
    path.write_text(json.dumps(tree))
    assert read_config(tmp_path) == SHORT


def test_a_value_of_another_version_is_told_with_its_file(tmp_path):
    path = begun(tmp_path) / "config.json"
    path.write_text(path.read_text().replace('"sgd"', '"lion"'))
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: optim.name 'lion'"):
        read_config(tmp_path)


# What --extend may change


def test_what_extend_may_change(tmp_path):
    workdir = begun(tmp_path, SHORT, "20")
    for config in (
        changed(duration="40st"),
        changed(log_every="3st", eval=replace(SHORT.eval, every="7st")),
        changed(checkpoint=CheckpointConfig(keep=9)),
    ):
        assert check_workdir(workdir, config, extend=True) is None
        with pytest.raises(ConfigError, match=r"(?s)another run.* To continue .*, add --extend\. "):
            check_workdir(workdir, config)
    assert check_workdir(workdir, SHORT, extend=True) is None


def test_what_extend_may_not_change(tmp_path):
    workdir = begun(tmp_path, SHORT, "20")
    other = changed(duration="40st", seed=3, optim=OptimConfig(lr=0.7, lr_batch=32))
    message = r"--extend cannot change seed: 0 -> 3; optim.lr: 0.2 -> 0.7\. It can change duration"
    with pytest.raises(ConfigError, match=message):
        check_workdir(workdir, other, extend=True)
    with pytest.raises(ConfigError) as caught:
        check_workdir(workdir, other)
    assert "--extend" not in str(caught.value)


def test_nothing_to_extend(tmp_path):
    with pytest.raises(ConfigError, match=r"--extend: '.*/none' has no checkpoint to continue"):
        check_workdir(tmp_path / "none", SHORT, extend=True)


def test_a_duration_that_is_over(tmp_path):
    begun(tmp_path, SHORT, "17", "20")
    check_duration(tmp_path, Run(SHORT))
    with pytest.raises(ConfigError, match=r"'19st' is 19 steps, .* checkpoint of step 20"):
        check_duration(tmp_path, Run(changed(duration="19st")))


def segments(workdir: Path) -> list[tuple[int, dict[str, Any]]]:
    found = json.loads((workdir / "config.json").read_text()).get("segments", [])
    assert all({"versions", "commit", "devices"} <= each.keys() for each in found)
    return [(each["from_step"], each["options"]) for each in found]


def test_segments(tmp_path):
    """Which options held from which step on, whatever is resumed and changed between."""
    workdir = begun(tmp_path, SHORT, "20")
    record_segments(workdir, Run(SHORT), 20)
    assert segments(workdir) == [] and describe_extension(workdir, Run(SHORT), 20) is None
    record_segments(workdir, Run(changed(duration="40st")), 20)
    first = (0, {"duration": "20st"})
    assert segments(workdir) == [first, (20, {"duration": "40st"})]
    assert read_config(workdir).duration == "40st"

    longer = changed(duration="60st", log_every="5st")
    record_segments(workdir, Run(longer), 40)
    first = (0, {"duration": "20st", "log_every": "10st"})
    last = (40, {"duration": "60st", "log_every": "5st"})
    assert segments(workdir) == [first, (20, {"duration": "40st"}), last]
    record_segments(workdir, Run(longer), 45)  # an ordinary resume
    assert segments(workdir) == [first, (20, {"duration": "40st"}), last]

    # Checkpoint 40 was damaged: what is computed again has the options of now.
    record_segments(workdir, Run(longer), 35)
    assert segments(workdir) == [first, (20, {"duration": "40st"}), (35, last[1])]
    record_segments(workdir, Run(longer), 10)
    assert segments(workdir) == [first, (10, last[1])]
    # Changed again before a step was done.
    record_segments(workdir, Run(changed(duration="50st", log_every="5st")), 10)
    assert segments(workdir) == [first, (10, {"duration": "50st", "log_every": "5st"})]


def test_what_extending_means_for_the_learning_rate(tmp_path):
    workdir = begun(tmp_path, SHORT, "20")
    said = str(describe_extension(workdir, Run(changed(duration="40st")), 20))
    assert said == (
        "extended from step 20 on: duration: '20st' -> '40st'. The learning rate follows the "
        "schedule of 40st: 0.1 at the next step, instead of 0"
    )
    longer = changed(eval=replace(SHORT.eval, crop_fraction=0.5))
    said = str(describe_extension(workdir, Run(longer), 20))
    assert said.endswith("Earlier evaluations were made with the old options")


def test_an_extended_run(tmp_path, capsys):
    """It goes on where it ended, by the schedule of the new duration; later commands resume it."""
    fit(SHORT, tmp_path, quiet=True)
    before = (tmp_path / "metrics.jsonl").read_text()
    longer = changed(duration="40st")
    with pytest.raises(ConfigError, match="add --extend"):
        fit(longer, tmp_path, quiet=True)
    assert read_config(tmp_path) == SHORT
    row = fit(longer, tmp_path, extend=True)
    said = capsys.readouterr().out
    assert "resumes after step 20 of 40" in said and "0.1 at the next step" in said
    assert row["step"] in (20, 40)
    rows = content(tmp_path)[0]
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    assert [r["step"] for r in rows if r["split"] == "train"] == [10, 20, 30, 40]
    assert rows[-2]["lr"] == pytest.approx(Run(longer).schedule(39))
    assert segments(tmp_path)[1] == (20, {"duration": "40st"})
    fit(longer, tmp_path, quiet=True)
    with pytest.raises(ConfigError, match="another run"):
        fit(SHORT, tmp_path, quiet=True)


# Which options a command starts from


@pytest.fixture
def given(monkeypatch) -> list[tuple[RunConfig, Path, bool]]:
    """What `fit` is called with, instead of a training."""
    calls: list[tuple[RunConfig, Path, bool]] = []

    def record(config, workdir, *, stop, extend, given):
        calls.append((config, workdir, extend))

    monkeypatch.setattr(train.run.fit, "fit", record)
    return calls


def test_the_workdir_alone_says_which_run(tmp_path, given):
    begun(tmp_path / "run", changed(recipe="folder", seed=5), "20")
    workdir = str(tmp_path / "run")
    for args in (["--workdir", workdir], [f"--workdir={workdir}"]):
        assert train.__main__.main(["train", *args]) == 0
    args = ["--seed", "6", "--workdir", workdir, "--extend"]
    assert train.__main__.main(["train", *args]) == 0
    expected = changed(recipe="folder", seed=5)
    path = tmp_path / "run"
    assert given[:2] == [(expected, path, False)] * 2
    assert given[2] == (replace(expected, seed=6), path, True)


def test_a_recipe_that_is_named_is_meant(tmp_path, given):
    begun(tmp_path, changed(seed=5))
    assert train.__main__.main(["train", "digits", "--workdir", str(tmp_path)]) == 0
    assert given[0][0].seed == 0 and given[0][0].model.depths is None


def test_no_recipe_and_no_run(tmp_path, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.__main__.main(["train"]) == 0
    assert [(call[0].recipe, call[1]) for call in given] == [("digits", Path("runs/digits"))]
    begun(tmp_path / "runs" / "digits", changed(seed=5), "20")
    assert train.__main__.main(["train"]) == 0
    assert given[1][0].seed == 5


# Lengths


def test_a_batch_that_is_larger_than_the_data(tmp_path):
    data = replace(SHORT.data, name="synthetic", examples=40, classes=4)
    config = changed(data=data, batch_size=128, duration="10ep")
    message = (
        r"batch_size 128: there are 40 training images, so one step would be 3.2 epochs; the "
        r"learning rate is scaled for 128; choose --batch_size 40 or less"
    )
    with pytest.raises(ConfigError, match=message):
        fit(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    few = replace(config, data=replace(data, examples=5))
    with pytest.raises(ConfigError, match="use fewer devices"):  # eight of them
        fit(few, tmp_path / "run", quiet=True)

"""Progressive resizing: the size of every step, and a run that resumes at a boundary."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.run.test_fit import content, stopping_at
from tests.runs import tiny
from train.config import AugmentConfig, ConfigError, DataConfig, ModelConfig, RunConfig, RunError
from train.data.sizes import segments, size_at
from train.run.checks import check_parts, check_sizes
from train.run.dispatch import _host_batches
from train.run.fit import fit
from train.run.parts import Run
from train.run.start_screen import describe_run


def test_the_schedule_of_ffcv():
    """libffcv/ffcv-imagenet, `get_resolution`: interpolated, rounded to a multiple of 32."""
    for epoch in range(90):
        interpolated = np.interp([epoch], [65, 76], [128, 224])
        expected = int(np.round(interpolated[0] / 32)) * 32
        assert size_at(epoch, first=128, last=224, ramp=(65, 76), multiple=32) == expected


def test_ends_that_are_no_multiples_stay():
    sizes = [size_at(e, first=100, last=176, ramp=(1, 5), multiple=32) for e in range(7)]
    assert sizes == [100, 100, 128, 128, 160, 176, 176]


@pytest.mark.parametrize("examples, batch, total", [(100, 10, 95), (97, 8, 100), (20, 15, 11)])
def test_the_size_of_a_step_is_that_of_its_epoch(examples, batch, total):
    config = RunConfig(
        batch_size=batch,
        duration=f"{total}st",
        augment=AugmentConfig(size_start=64, size_ramp=("2ep", "75%")),
        data=DataConfig(image_size=160),
    )
    parts = segments(config, examples, total)
    found = [part.size for part in parts for _ in range(part.start, part.stop)]
    ramp = (-(-2 * examples // batch) * batch / examples, -(-75 * total // 100) * batch / examples)
    options = {"first": 64, "last": 160, "ramp": ramp, "multiple": 32}
    assert found == [size_at(s * batch // examples, **options) for s in range(total)]
    assert len({part.size for part in parts}) == len(parts)


def grows(**changes: object) -> RunConfig:
    """Steps of 256 of 1,438 digits: epochs begin at steps 0, 6 and 12."""
    config = tiny(duration="15st", batch_size=256, log_every="3st")
    augment = replace(config.augment, size_start=4, size_step=2, size_ramp=("0ep", "2ep"))
    return replace(config, augment=replace(augment, **changes))


def test_a_run_resumes_at_a_boundary(tmp_path, monkeypatch, capsys):
    config, whole, cut = grows(size_step=4), tmp_path / "whole", tmp_path / "cut"
    fit(config, whole)
    assert (
        "4x4 then 8x8 from step 12 on (2 programs are compiled), cropped" in capsys.readouterr().out
    )
    with monkeypatch.context() as patch:
        stopping_at(patch, 12, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 12 of 15, saved"):
            fit(config, cut, quiet=True)
    fit(config, cut, quiet=True)
    assert content(whole) == content(cut)


def test_batches_have_the_sizes_and_do_not_depend_on_where_reading_begins():
    run = Run(grows())
    assert [tuple(part) for part in run.image_sizes] == [(0, 6, 4), (6, 12, 6), (12, 15, 8)]
    screen = "\n".join(describe_run(run, Path("x"), None))
    assert "4x4 then 6x6 then 8x8 from step 6, 12 on (3 programs are compiled), crop" in screen
    whole = list(_host_batches(run, 0))
    assert [batch["image"].shape[1] for batch in whole] == [4] * 6 + [6] * 6 + [8] * 3
    for start in (6, 7, 14):
        later = list(_host_batches(run, start))
        assert len(later) == 15 - start
        for a, b in zip(later, whole[start:], strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])


def test_what_cannot_grow_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"size_ramp 2ep 2ep: all images of the run have 4 pixels .*, and it has 1.07",
    ):
        check_sizes(Run(replace(grows(size_ramp=("2ep", "2ep")), duration="6st")))
    config = replace(grows(), data=replace(grows().data, image_size=40))
    lenet = replace(config, model=ModelConfig(name="lenet5"))
    lenet = replace(lenet, augment=replace(config.augment, size_start=28))
    with pytest.raises(ConfigError, match=r"lenet5 at augment.size_start 28: LeNet-5 needs"):
        check_sizes(Run(lenet))
    with pytest.raises(ConfigError, match=r"mix.cutout 6: must be at most augment.size_start 4"):
        config = grows()
        check_parts(Run(replace(config, mix=replace(config.mix, cutout=6))))
    with pytest.raises(ConfigError, match=r"augment.size_start 4 is done on the host"):
        config = grows()
        check_parts(Run(replace(config, data=replace(config.data, resident="on"))))


def test_the_ramp_alone_keeps_images_on_the_devices():
    """Without size_start, the other two options have no effect, also on data.resident."""
    config = replace(grows(size_ramp=("1ep", "2ep"), size_step=4, size_start=0), duration="6st")
    assert Run(replace(config, data=replace(config.data, resident="on"))).resident

"""`preview`: the pictures are those of the pipeline, with the weights of their targets."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.report.test_report import Page
from tests.runs import tiny
from train.__main__ import main
from train.config import AugmentConfig, ConfigError, MixConfig
from train.data.pipeline import eval_batches, train_batches
from train.report.preview import Seen
from train.run.parts import Run
from train.run.preview import views

CROP = AugmentConfig(crop="pad", pad=2, flip=True)


def label(row: Seen) -> int:
    return int(row.evaluation.target.argmax())


def test_pictures_are_the_pixels_of_the_pipeline():
    config = tiny(augment=CROP)
    run = Run(config)
    seen = views(run, images=5, draws=1)
    options = {"seed": config.seed, "batch_size": 5, "start": 0, "stop": 1}
    (batch,) = train_batches(run.splits.train, config.data, config.augment, **options)
    whole = next(eval_batches(run.splits.train, config.data, config.eval, batch_size=1437))
    for row, pixels, index in zip(seen, batch["image"], batch["index"], strict=True):
        assert row.name == f"train[{index}]" and label(row) == whole["label"][index]
        np.testing.assert_array_equal(row.draws[0].pixels, np.repeat(pixels, 3, -1))
        np.testing.assert_array_equal(row.evaluation.pixels, whole["image"][index].repeat(3, -1))
        np.testing.assert_array_equal(row.draws[0].target, np.eye(10)[label(row)])


def test_each_draw_is_another_one_of_the_same_image():
    seen = views(Run(tiny(augment=CROP)), images=3, draws=10)
    for row in seen:
        assert len(row.draws) == 10 and len({view.pixels.tobytes() for view in row.draws}) > 5


def test_a_mixed_picture_has_the_weights_of_its_target():
    still = tiny(augment=AugmentConfig(crop="none", flip=False))
    mixed = replace(still, mix=MixConfig(mixup=1.0, per="example"))
    seen = views(Run(mixed), images=6, draws=2)
    for before, row in zip([seen[-1], *seen], seen, strict=False):
        for view in row.draws:
            if label(before) == label(row):
                continue
            own, other = row.evaluation.pixels * 1.0, before.evaluation.pixels * 1.0
            share = view.target[label(row)]
            expected = share * own + (1 - share) * other
            assert np.abs(view.pixels - expected).max() <= 0.51
            np.testing.assert_allclose(view.target[label(before)], 1 - share, atol=1e-6)


def test_one_image_has_no_partner():
    with pytest.raises(ConfigError, match="choose more with --images"):
        views(Run(tiny(mix=MixConfig(cutmix=1.0))), images=1, draws=1)


def test_the_page(tmp_path, capsys):
    page = tmp_path / "p.html"
    args = ("preview", "digits", "--out", str(page), "--images", "3", "--draws", "4")
    assert main([*args, "--mix.label_smoothing", "0.2", "--augment.pad", "2"]) == 0
    assert "p.html: 3 images in 4 draws" in capsys.readouterr().out
    found = Page(page)
    assert [tag for tag, _ in found.tags].count("img") == 3 * 5
    assert not re.findall(r"(?:src|href)=\"(?!data:)", found.source)
    ((_, rows),) = found.tables
    assert rows[0] == ["label, image", "evaluation", *(f"draw {i}" for i in (1, 2, 3, 4))]
    for name, evaluated, *draws in rows[1:]:
        digit = name[0]
        assert evaluated == f"{digit} 1.000" and draws == [f"{digit} 0.820"] * 4
    assert "augment.pad" in found.text and "mix.label_smoothing" in found.text


@pytest.mark.parametrize(
    "args, message",
    [
        ((), "the recipe is missing: resnet-jax preview RECIPE --data.dir DIR"),
        (("digits", "--draws", "0"), "--draws 0: must be at least 1"),
        (("digits", "--out", "nowhere/p.html"), "the directory nowhere does not exist"),
        (("digits", "--augment.area", "0.1", "0.2", "--images", "0"), "--images 0: must be"),
        (("digits", "--mix.cutout", "20"), "mix.cutout 20: must be at most data.image_size 8"),
        (
            ("digits", "--augment.rotate", "9", "--augment.fill", "1", "2", "3"),
            "augment.fill (1, 2, 3): needs one value, because the images are grey",
        ),
    ],
)
def test_messages(args, message, capsys):
    assert main(["preview", *args]) == 2
    assert message in capsys.readouterr().err


def test_a_duration_in_hours_and_images_that_grow(tmp_path, capsys):
    options = ("--out", str(tmp_path / "p.html"), "--images", "2", "--draws", "1")
    grows = ("--augment.size_start", "4", "--augment.size_step", "2", "--duration", "2h")
    assert main(["preview", "digits", *options, *grows]) == 0
    expected = "training images are shown with 8 pixels on a side, as at the end of the run; it be"
    assert expected in capsys.readouterr().err

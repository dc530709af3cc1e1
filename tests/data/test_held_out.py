"""train/data/sources/held_out.py: a file stays in its split when other files change."""

import hashlib
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.examples import names, picture, refusal
from train.config import DataConfig
from train.data.sources import class_counts, open_splits
from train.data.sources.held_out import held_out_by_class, held_out_by_name

ROOT = Path(__file__).parents[2]
FILES = [f"{name}/{i:04}.jpg" for name in ("ant", "bee", "cat") for i in range(4000)]


def sides(root: Path, **options) -> dict[str, str]:
    """The split of each file."""
    splits = open_splits(DataConfig(name="folder", dir=str(root), **options))
    found = zip(("train", "eval"), splits, strict=True)
    return {name: split for split, source in found for name in names(source)}


@pytest.fixture
def photos(tmp_path) -> Path:
    """60 files of two classes."""
    for i in range(60):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png", i)
    return tmp_path / "photos"


def test_no_other_file_moves(photos):
    before = sides(photos)
    assert sorted(before.values()).count("eval") == 18  # 12 +- 3.1
    for i in range(20):
        picture(photos / "a" / f"new{i}.png")
        (photos / "b" / f"{2 * i + 1:02}.png").unlink()
    after = sides(photos)
    assert {"train", "eval"} == {after[f"a/new{i}.png"] for i in range(20)}
    kept = before.keys() & after.keys()
    assert len(kept) == 40 and all(before[name] == after[name] for name in kept)


def test_a_new_class_and_another_place_move_no_file(photos, tmp_path):
    before = sides(photos)
    for i in range(30):
        picture(photos / "Aardvark" / f"{i:02}.png")
    photos.rename(tmp_path / "renamed")
    (tmp_path / "link").symlink_to(tmp_path / "renamed")
    for root in (tmp_path / "renamed", tmp_path / "link"):
        after = sides(root)
        assert all(after[name] == side for name, side in before.items())


def test_the_order_of_a_listing_moves_no_file():
    mask = held_out_by_name(FILES, 0.2, 0)
    order = np.random.default_rng(0).permutation(len(FILES))
    shuffled = held_out_by_name([FILES[i] for i in order], 0.2, 0)
    np.testing.assert_array_equal(shuffled, mask[order])


def test_the_share_is_the_same_on_every_machine():
    """Fixed results: a resumed run needs the same split with any version and on any system."""
    mask = held_out_by_name(FILES, 0.2, 0)
    assert hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] == "f57d2bf5780eab8c"
    code = (
        "from train.data.sources.held_out import held_out_by_name as f; "
        "print(f([f'a/{i}' for i in range(40)], 0.5, 3).tolist())"
    )
    found = set()
    for seed in ("0", "1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, env=env, capture_output=True, text=True).stdout)
    mask = held_out_by_name([f"a/{i}" for i in range(40)], 0.5, 3)
    assert found == {f"{mask.tolist()}\n"}


def test_the_share_is_binomial_in_each_class():
    """0.2 of 4,000 files of a class: 800 +- 25."""
    counts = np.array(
        [held_out_by_name(FILES, 0.2, seed).reshape(3, 4000).sum(1) for seed in range(20)]
    )
    assert abs(counts - 800).max() < 4 * 25.3
    assert 15 < counts.std() < 36
    assert abs(counts.mean() - 800) < 4 * 25.3 / 60**0.5


def test_seeds_choose_independently():
    """The splits of two seeds have 20 % of 20 % in common: 480 +- 21 of 12,000."""
    a, b = (held_out_by_name(FILES, 0.2, seed) for seed in (0, 1))
    assert abs((a & b).sum() - 480) < 4 * 21


def test_a_larger_share_holds_out_more_and_no_others():
    small, large = (held_out_by_name(FILES, fraction, 0) for fraction in (0.1, 0.3))
    assert (small <= large).all() and small.sum() < large.sum()


def test_both_spellings_of_an_accent_are_one_name():
    accented = [f"café/{i}.jpg" for i in range(200)]
    other = [unicodedata.normalize("NFD", name) for name in accented]
    assert accented != other
    np.testing.assert_array_equal(
        held_out_by_name(accented, 0.5, 0), held_out_by_name(other, 0.5, 0)
    )
    assert held_out_by_name([os.fsdecode(b"caf\xe9/1.jpg")], 1.0, 0).all()  # not UTF-8


def test_a_class_without_training_images_is_refused(tmp_path):
    """Of classes with a single file, a fifth have it held out."""
    for i in range(30):
        picture(tmp_path / f"class{i}" / "only.png")
    message = refusal(DataConfig(name="folder", dir=str(tmp_path)))
    assert message.startswith(f"{tmp_path}: all images of 'class") and "held-out share" in message
    for fix in ("--data.split_seed", f"{tmp_path}/train/CLASS", f"{tmp_path}/val/CLASS"):
        assert fix in message


def test_a_share_without_images_says_how_large_it_is(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path / name)
    message = refusal(DataConfig(name="folder", dir=str(tmp_path), eval_fraction=0.001))
    assert message.endswith("split 'test' has no examples (data.eval_fraction 0.001 of 2)")


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.1, 0.999, 0.0003])
def test_arrays_are_held_out_exactly_in_each_class(fraction):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [10, 333, 7, 1, 250]))
    mask = held_out_by_class(labels, fraction, 0)
    assert mask.sum() == round(601 * fraction)
    held = np.bincount(labels[mask], minlength=5)
    assert np.abs(held - np.bincount(labels) * fraction).max() < 1


def test_arrays_are_chosen_by_the_seed_and_uniformly():
    labels = np.arange(1000) % 2
    masks = np.array([held_out_by_class(labels, 0.2, seed) for seed in range(200)])
    np.testing.assert_array_equal(masks[7], held_out_by_class(labels, 0.2, 7))
    # each example 40 +- 5.7 times, with the variance of independent draws
    counts = masks.sum(0)
    assert abs(counts.std() / (200 * 0.2 * 0.8) ** 0.5 - 1) < 0.1
    assert abs((masks[0] & masks[1]).sum() - 40) < 4 * 5.7


def test_digits_are_held_out_class_by_class():
    """The earlier rule held out 28 to 42 of each class, by chance."""
    splits = open_splits(DataConfig(name="digits"))
    assert class_counts(splits.eval).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert class_counts(splits.train).tolist() == [142, 146, 142, 146, 145, 146, 145, 143, 139, 144]


def test_runs_from_before_keep_their_digits():
    test = open_splits(DataConfig(name="digits", held_out="by_place")).eval
    assert hashlib.sha256(test.images.tobytes()).hexdigest()[:16] == "ce0a35d5380ffb91"

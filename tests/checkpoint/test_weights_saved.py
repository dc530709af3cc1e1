"""resnet_jax/weights/convert.py: saving, also when it fails."""

import os
import re
import resource

import jax
import numpy as np
import pytest

from resnet_jax import (
    WeightsError,
    load_weights,
    save_weights,
)
from tests.resnet_jax.test_convert import CIFAR, STATS, A, random_variables, same, says

# --- saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["a.pth", "a", "a.npz.gz", "a.NPZ", ".npz"])
def test_other_suffixes(file, tmp_path):
    path = tmp_path / file
    message = f"{path}: choose from the suffixes .safetensors, .npz"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        save_weights(random_variables(CIFAR), path, CIFAR)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_variables_of_another_network(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_text("before")
    with pytest.raises(WeightsError) as caught:
        save_weights(random_variables(CIFAR), path, "resnet14_cifar")
    says(
        caught,
        "variables that are not those of resnet14_cifar\n  30 missing: ",
        f"{STATS}/stage1/block2/norm1/mean; ",
    )
    variables = random_variables(CIFAR)
    cases = [
        ({"params": variables["params"]}, "14 missing: "),
        ({**variables, "opt_state": [A]}, "1 unexpected: opt_state/0"),
        (variables["params"], "37 missing: "),
        ({}, "37 missing: "),
        ({"params": {"head": {"bias": A}}}, "missing: "),
    ]
    for given, part in cases:
        with pytest.raises(WeightsError) as caught:
            save_weights(given, path, CIFAR)
        says(caught, f"variables that are not those of {CIFAR}", part)
    variables["params"]["head"]["bias"] = np.zeros(11, np.float32)
    with pytest.raises(WeightsError) as caught:
        save_weights(variables, path, CIFAR)
    message = says(caught, "params/head/kernel (64, 10), not (64, 11)")
    assert "head='reset'" not in message  # that advice is for loading
    assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_full_disk_leaves_the_old_file(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    old = random_variables(CIFAR)
    save_weights(old, path, CIFAR)
    new = jax.tree.map(np.zeros_like, old)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a third of the file
    try:
        with pytest.raises(OSError, match="File too large"):
            save_weights(new, path, CIFAR)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == [path.name]
    same(load_weights(path, CIFAR), old)
    # A process that has the old file open continues to read it.
    os.link(path, tmp_path / f"open.{suffix}")
    save_weights(new, path, CIFAR)
    same(load_weights(path, CIFAR), new)
    same(load_weights(tmp_path / f"open.{suffix}", CIFAR), old)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_no_such_folder(suffix, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"none/a.{suffix}"):
        save_weights(random_variables(CIFAR), tmp_path / "none" / f"a.{suffix}", CIFAR)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_others_may_read_the_file(suffix, tmp_path):
    """Other users can read the file if the umask allows it."""
    before = os.umask(0o027)
    try:
        save_weights(random_variables(CIFAR), tmp_path / f"a.{suffix}", CIFAR)
    finally:
        os.umask(before)
    assert (tmp_path / f"a.{suffix}").stat().st_mode & 0o777 == 0o640

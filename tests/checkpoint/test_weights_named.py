"""Messages about weights with a wrong name, or of another network."""

from pathlib import Path

import pytest

from resnet_jax import save_weights
from tests.resnet_jax.test_convert import random_variables
from train.checkpoint.weights import initial, load
from train.config import ConfigError, InitConfig, ModelConfig


def refusal(given: str, name: str = "resnet18") -> str:
    with pytest.raises(ConfigError) as error:
        initial(InitConfig(weights=given), ModelConfig(name=name), 10)
    return str(error.value)


def test_a_run_is_no_file_of_weights(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    assert refusal(str(tmp_path)) == (
        f"{str(tmp_path)!r} is a run, not a file of weights. Write its weights to a file first: "
        f"resnet-jax convert {tmp_path} weights.safetensors"
    )


def test_a_network_without_a_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal("resnet18")
    assert said.startswith("'resnet18' is the name of a network, and weights need a tag too")
    Path("resnet18").touch()  # a file of that name is read
    assert "tag" not in refusal("resnet18")


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_the_network_of_the_file_is_named(suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    save_weights(random_variables("resnet14_cifar", 3), path, "resnet14_cifar")
    with pytest.raises(ConfigError, match=r"\n  These are the weights of resnet14_cifar$"):
        load(str(path), ModelConfig(name="resnet8_cifar"))

"""The message for a TFDS data set that is not prepared: commands, or similar names."""

import json
import shlex
from pathlib import Path

import pytest

from tests.examples import picture, refusal
from tests.runs import tiny
from train.__main__ import main
from train.config import ConfigError, DataConfig
from train.config.serialize import to_json
from train.data.sources import open_splits
from train.data.sources.prepare_hint import how_to_prepare
from train.run.data_changes import open_eval_data


def prepared(folder: Path, name: str) -> None:
    """The files of a prepared data set that are checked."""
    (folder / name / "1.0.0").mkdir(parents=True)
    (folder / name / "1.0.0" / "dataset_info.json").write_text("{}")


def test_a_recipe_without_its_data_shows_the_three_lines(tmp_path, capsys):
    assert main(["train", "cifar10-resnet20", "--data.dir", str(tmp_path)]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"error: data.name 'cifar10' is not prepared: {tmp_path} holds no data set. Three lines"
    )
    install, prepare, train = (shlex.split(line) for line in lines)
    assert install == ["pip", "install", "-e", ".[prepare]"]
    assert prepare[:2] == ["python", "-c"]
    code = compile(prepare[2], "prepare", "exec")  # it is Python
    assert {"tensorflow_datasets", "builder", "download_and_prepare"} <= set(code.co_names)
    assert {"cifar10", str(tmp_path), "array_record"} <= set(str(code.co_consts).split("'"))
    assert train == ["resnet-jax", "train", "cifar10-resnet20", "--data.dir", str(tmp_path)]


def test_what_is_prepared_elsewhere_is_named(tmp_path):
    prepared(tmp_path, "mnist")
    (tmp_path / "docs").mkdir()  # any other folder is no data set
    with pytest.raises(ConfigError, match=r"holds mnist\. Three lines"):
        open_splits(DataConfig(name="cifar10:3.0.2", dir=str(tmp_path)))


def test_imagenet_needs_files_that_nothing_downloads(tmp_path):
    text = how_to_prepare("imagenet2012", tmp_path)
    assert "(first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into" in text
    assert f"{tmp_path}/downloads/manual" in text
    assert f"train imagenet-resnet50 --data.dir {tmp_path}" in text
    text = how_to_prepare("cifar100", tmp_path)
    assert "manual" not in text and "train cifar100-resnet20-paper --data.dir" in text
    text = how_to_prepare("svhn_cropped", tmp_path)
    assert "train RECIPE --data.name svhn_cropped" in text


def test_a_name_that_nobody_knows_is_guessed(tmp_path):
    prepared(tmp_path, "my_birds")
    text = how_to_prepare("cifar_10", tmp_path)
    assert text.startswith("data.name 'cifar_10': did you mean cifar10, cifar100")
    assert "did you mean folder?" in how_to_prepare("foldr", tmp_path)
    assert "did you mean my_birds?" in how_to_prepare("my_bird", tmp_path)
    assert how_to_prepare("zzzz", tmp_path) == (
        "data.name 'zzzz': choose csv, digits, folder, npz, synthetic or a TFDS data set "
        f"({tmp_path} holds my_birds; --data.dir DIR reads another folder)"
    )


@pytest.mark.parametrize("split", ["", "train"])
def test_a_folder_of_photos_is_called_so(tmp_path, split):
    for name in ("cat", "dog"):
        picture(tmp_path / split / name / "1.jpg")
    message = refusal(DataConfig(name="cifar10", dir=str(tmp_path)))
    assert message == (
        f"data.name 'cifar10': {tmp_path} is a folder of photos, not of TFDS data sets. To train "
        f"on them: resnet-jax train folder --data.dir {tmp_path}, or --data.name folder with this "
        "recipe"
    )
    message = how_to_prepare("cifar10", tmp_path, train=False)
    assert message.endswith(f"To evaluate them: --data.name folder --data.dir {tmp_path}")


def test_an_evaluation_is_not_told_to_train(tmp_path):
    config = tiny(data=DataConfig(name="cifar10", dir=str(tmp_path / "nowhere")))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    with pytest.raises(ConfigError, match="Two lines prepare it") as error:
        open_eval_data(tmp_path, config)
    assert "download_and_prepare" in str(error.value) and "train" not in str(error.value)

"""resnet_jax/weights/pretrained.py: timm's weights in a folder, in the hub's cache, or missing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnet_jax import Preprocessing, WeightsError, load_pretrained, save_weights
from resnet_jax.weights.pretrained import IMAGENET_MEAN, IMAGENET_STD, read_config
from tests.resnet_jax.test_convert import random_variables, same
from tests.runs import ROOT

NAME, TAG = "test_resnet", "r160_in1k"
FILES = ("model.safetensors", "config.json")
VIEW: dict[str, Any] = {
    "input_size": [3, 176, 176],
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.26, 0.27],
}
SEEN = Preprocessing(176, 0.95, "bicubic", (0.5, 0.4, 0.3), (0.25, 0.26, 0.27))


def timm(num_classes: int | None = 7, **changes: Any) -> dict[str, Any]:
    """A config.json as timm writes it; `changes` are of its `pretrained_cfg`."""
    own = {"tag": TAG, "custom_load": False, "fixed_input_size": False, "pool_size": [6, 6]}
    labels = {} if num_classes is None else {"num_classes": num_classes}
    cfg = {**own, **VIEW, **labels, "crop_mode": "center", "first_conv": "conv1.0", **changes}
    return {"architecture": NAME, **labels, "num_features": 96, "pretrained_cfg": cfg}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder of weights, and no hub."""
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return tmp_path / "weights"


def put(folder: Path, config: Any, num_classes: int = 7, name: str = NAME) -> dict:
    """Writes both files of `name.TAG` in `folder`; returns their content."""
    variables = random_variables(name, num_classes)
    own = folder / f"{name}.{TAG}"
    own.mkdir(parents=True, exist_ok=True)
    save_weights(variables, own / FILES[0], name)
    (own / FILES[1]).write_text(json.dumps(config))
    return variables


# --- a folder ------------------------------------------------------------------------------------


def test_a_folder_with_both_files(root):
    variables = put(root, timm())
    loaded, preprocessing = load_pretrained(NAME, TAG)
    same(loaded, variables)
    assert preprocessing == SEEN and type(preprocessing.mean) is tuple


@pytest.mark.parametrize("folder", ["~/mine", "", None])
def test_where_the_folder_is(folder, tmp_path, monkeypatch):
    """By default, and if the variable is empty, in the user's cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    if folder is None:
        monkeypatch.delenv("RESNET_JAX_WEIGHTS")
    else:
        monkeypatch.setenv("RESNET_JAX_WEIGHTS", folder)
    mine = tmp_path / "home" / ("mine" if folder else ".cache/resnet-jax/weights")
    with pytest.raises(WeightsError) as caught:
        load_pretrained(NAME, TAG)
    assert str(caught.value).endswith(f" into {mine}/{NAME}.{TAG}")
    variables = put(mine, timm())
    same(load_pretrained(NAME, TAG)[0], variables)


def test_older_configs_are_flat(root):
    """timm < 0.9 wrote everything at the top."""
    variables = put(root, {"architecture": NAME, "num_classes": 7, **VIEW, "labels": ["a"] * 7})
    loaded, preprocessing = load_pretrained(NAME, TAG)
    same(loaded, variables)
    assert preprocessing == SEEN


def test_missing_fields_of_a_config(root):
    for name, mean in ((NAME, IMAGENET_MEAN), ("resnetv2_18", (0.5, 0.5, 0.5))):
        root.mkdir(exist_ok=True)
        (root / "config.json").write_text(json.dumps({"input_size": [3, 96, 96]}))
        preprocessing, classes = read_config(root / "config.json", name)
        std = IMAGENET_STD if name == NAME else mean
        assert preprocessing == Preprocessing(96, 0.875, "bilinear", mean, std)
        assert classes == 1000
    assert read_config(root / "config.json", "resnet8_cifar")[1] == 10


def test_classes_are_those_of_the_files(root):
    variables = put(root, timm(21843), 21843)
    same(load_pretrained(NAME, TAG)[0], variables)
    # The top level describes the weights; `pretrained_cfg` describes their origin.
    config = {**timm(1000), "num_classes": 21843}
    put(root, config, 21843)
    same(load_pretrained(NAME, TAG)[0], variables)
    put(root, {"pretrained_cfg": timm(21843)["pretrained_cfg"]}, 21843)
    same(load_pretrained(NAME, TAG)[0], variables)


def test_number_of_classes_as_argument(root):
    variables = put(root, timm(1000), 7)
    weights = root / f"{NAME}.{TAG}" / FILES[0]
    same(load_pretrained(NAME, TAG, 7)[0], variables)
    for classes, wanted in ((None, 1000), (12, 12)):
        with pytest.raises(WeightsError) as caught:
            load_pretrained(NAME, TAG, classes)
        message = str(caught.value)
        assert message.startswith(f"{weights}: not the weights of {NAME}\n")
        assert f"(7,), not ({wanted},)" in message and "head='reset'" in message
    for head in ("keep", "reset"):
        with pytest.raises(ValueError, match="num_classes 0: must be at least 1"):
            load_pretrained(NAME, TAG, 0, head=head)


def test_a_new_head(root):
    variables = put(root, timm())
    for given, classes in ((None, 7), (12, 12)):
        loaded, preprocessing = load_pretrained(NAME, TAG, given, head="reset")
        assert loaded["params"]["head"]["kernel"].shape == (96, classes)
        assert not np.array_equal(
            loaded["params"]["head"]["bias"], variables["params"]["head"]["bias"]
        )
        same(loaded["params"]["backbone"], variables["params"]["backbone"])
        same(loaded["batch_stats"], variables["batch_stats"])
        assert preprocessing == SEEN
    with pytest.raises(ValueError, match="head 'other': choose from 'keep', 'reset'"):
        load_pretrained(NAME, TAG, head="other")  # type: ignore[arg-type]


def test_weights_published_without_a_head(root):
    """As resnet50.bamboo: timm's config has 0 classes."""
    variables = put(root, timm(0))
    config = root / f"{NAME}.{TAG}" / FILES[1]
    for head in ("keep", "reset"):
        with pytest.raises(WeightsError) as caught:
            load_pretrained(NAME, TAG, head=head)
        assert str(caught.value) == (
            f"{config}: published without a head; head='reset' with num_classes=... initialises one"
        )
    loaded, _ = load_pretrained(NAME, TAG, 5, head="reset")
    same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert loaded["params"]["head"]["bias"].shape == (5,)


# --- files that are missing or wrong -------------------------------------------------------------


@pytest.mark.parametrize("missing", FILES)
def test_missing_file(missing, root):
    """The message names the file and the folder for it."""
    put(root, timm())
    path = root / f"{NAME}.{TAG}" / missing
    path.unlink()
    with pytest.raises(WeightsError) as caught:
        load_pretrained(NAME, TAG)
    assert str(caught.value) == (
        f"timm/{NAME}.{TAG} cannot be fetched from the Hugging Face hub (huggingface_hub is not "
        "installed: pip install -e '.[hub]'). Put its model.safetensors and config.json "
        f"into {path.parent}"
    )


def test_unknown_name(root):
    with pytest.raises(ValueError, match=r"model 'test_resnett': .*test_resnet") as caught:
        load_pretrained("test_resnett", TAG)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match=r"^unknown model 'test_resnett'"):
        read_config(root / "config.json", "test_resnett")


@pytest.mark.parametrize("folder", [False, True])
def test_wrong_weights(folder, root):
    put(root, timm())
    weights = root / f"{NAME}.{TAG}" / FILES[0]
    weights.unlink()
    if folder:  # as good as missing
        weights.mkdir()
    else:
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    what = "Put its model.safetensors and" if folder else "not a complete safetensors file"
    with pytest.raises(WeightsError, match=what) as caught:
        load_pretrained(NAME, TAG)
    assert str(weights.parent if folder else weights) in str(caught.value)


def without(*path: str) -> dict[str, Any]:
    config = timm()
    place = config
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return config


WRONG: dict[str, tuple[Any, str]] = {
    "empty": (b"", "JSONDecodeError"),
    "cut short": (json.dumps(timm())[:-9].encode(), "JSONDecodeError"),
    "no text": (b"\xff\xfe\x00", "UnicodeDecodeError"),
    "list": ([timm()], "AttributeError"),
    "null": (None, "AttributeError"),
    "a run's": ({"model": {"name": NAME}, "data": {}}, "KeyError('input_size')"),
    "null inside": ({"pretrained_cfg": None}, "TypeError"),
    "list inside": ({"pretrained_cfg": [VIEW]}, "TypeError"),
    "no size": (without("pretrained_cfg", "input_size"), "KeyError('input_size')"),
    "size a number": (timm(input_size=176), "TypeError"),
    "size empty": (timm(input_size=[]), "IndexError"),
    "size a text": (timm(input_size=["3", "176", "176"]), "preprocessing size '176': needs int"),
    "size a word": (timm(input_size="3x176x176"), "preprocessing size '6': needs int"),
    "size a fraction": (timm(input_size=[3, 176.5, 176.5]), "size 176.5: needs int"),
    "crop a text": (timm(crop_pct="0.95"), "crop_fraction '0.95': needs float"),
    "crop null": (timm(crop_pct=None), "crop_fraction None: needs float"),
    "interpolation": (
        timm(interpolation="lanczos"),
        "interpolation 'lanczos': choose from 'bilinear', 'bicubic'",
    ),
    "mean a number": (timm(mean=0.5), "mean 0.5: needs a tuple of"),
    "mean of words": (timm(mean=["a", "b", "c"]), "mean ('a', 'b', 'c'): needs a tuple of"),
    "std a text": (timm(std="0.5"), "std '0.5': needs a tuple of"),
    "classes a word": ({**timm(), "num_classes": "seven"}, "TypeError"),
    "classes a text": ({**timm(), "num_classes": "7"}, "TypeError"),
    "classes a fraction": ({**timm(), "num_classes": 7.5}, "TypeError"),
    "classes null": ({**timm(), "num_classes": None}, "TypeError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_config(case, root):
    content, reason = WRONG[case]
    put(root, timm())
    path = root / f"{NAME}.{TAG}" / FILES[1]
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(WeightsError) as caught:
        load_pretrained(NAME, TAG)
    message = str(caught.value)
    assert message.startswith(f"{path}: not the config.json of timm's weights (")
    assert reason in message and "\n" not in message


def test_missing_config(tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json: not the config.*FileNotFoundError"):
        read_config(tmp_path / "config.json", NAME)


# --- the hub -------------------------------------------------------------------------------------


def hub(monkeypatch, download: Callable, cached: Callable = lambda *_: None) -> None:
    """Installs a fake hub."""
    constants = SimpleNamespace(HF_HUB_OFFLINE=True)  # whether it answers is not asked
    functions = {"hf_hub_download": download, "try_to_load_from_cache": cached}
    module = SimpleNamespace(constants=constants, **functions)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_requests_to_the_hub(root, tmp_path, monkeypatch):
    """Only files that are missing in the folder, by the name of timm's repository."""
    elsewhere, asked = tmp_path / "elsewhere", []
    variables = put(elsewhere, timm())

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(elsewhere / f"{NAME}.{TAG}" / file)

    hub(monkeypatch, download)
    loaded, preprocessing = load_pretrained(NAME, TAG)
    same(loaded, variables)
    assert preprocessing == SEEN
    assert asked == [(f"timm/{NAME}.{TAG}", file) for file in FILES]
    (root / f"{NAME}.{TAG}").mkdir(parents=True)
    (root / f"{NAME}.{TAG}" / FILES[1]).write_text(json.dumps(timm(input_size=[3, 64, 64])))
    assert load_pretrained(NAME, TAG)[1].size == 64
    assert asked[2:] == [(f"timm/{NAME}.{TAG}", FILES[0])]


def test_the_cache_of_the_hub_comes_first(root, tmp_path, monkeypatch):
    """A cached file is not requested again; a file that was missing before is."""
    elsewhere, asked = tmp_path / "elsewhere", []
    variables = put(elsewhere, timm())

    def cached(repository: str, file: str) -> Any:
        return str(elsewhere / f"{NAME}.{TAG}" / file) if file == FILES[0] else object()

    def download(repository: str, file: str) -> str:
        asked.append(file)
        return str(elsewhere / f"{NAME}.{TAG}" / file)

    hub(monkeypatch, download, cached)
    same(load_pretrained(NAME, TAG)[0], variables)
    assert asked == [FILES[1]]


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (RuntimeError("\n401 Client Error.\n\nRepository Not Found for url ..."), "401 Client Err"),
        (ConnectionError(), "ConnectionError()"),
    ],
)
def test_errors_of_the_hub(error, reason, root, monkeypatch):
    def download(repository: str, file: str) -> str:
        raise error

    hub(monkeypatch, download)
    with pytest.raises(WeightsError) as caught:
        load_pretrained(NAME, TAG)
    message = str(caught.value)
    assert message.startswith(f"timm/{NAME}.{TAG} cannot be fetched from the Hugging Face hub (")
    assert f"({reason}" in message and "\n" not in message
    assert message.endswith(f"Put its {' and '.join(FILES)} into {root / f'{NAME}.{TAG}'}")


OFFLINE = f"""
import sys
from resnet_jax import WeightsError, load_pretrained
try:
    variables, preprocessing = load_pretrained({NAME!r}, sys.argv[1])
    print(variables["params"]["head"]["bias"].tolist(), preprocessing.size)
except WeightsError as error:
    print(error)
"""


def test_the_real_hub_offline(root, tmp_path):
    """Files in its cache are used; a missing file gives one clear message."""
    del sys.modules["huggingface_hub"]
    pytest.importorskip("huggingface_hub")
    commit = "0123456789" * 4
    cache = tmp_path / "hf" / "hub" / f"models--timm--{NAME}.{TAG}"
    variables = put(tmp_path / "made", timm())
    (cache / "snapshots").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    (tmp_path / "made" / f"{NAME}.{TAG}").rename(cache / "snapshots" / commit)
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    said = [
        subprocess.run(
            [sys.executable, "-c", OFFLINE, tag],
            env={**os.environ, **settings, "JAX_PLATFORMS": "cpu"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for tag in (TAG, "other")
    ]
    assert said[0] == f"{variables['params']['head']['bias'].tolist()} 176\n"
    assert said[1].startswith(f"timm/{NAME}.other cannot be fetched from the Hugging Face hub (")
    wanted = f"). Put its {' and '.join(FILES)} into {root / f'{NAME}.other'}\n"
    assert said[1].endswith(wanted) and said[1].count("\n") == 1

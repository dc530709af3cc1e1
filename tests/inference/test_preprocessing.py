"""`eval_image` beside torchvision's transforms, on 200 real photographs.

Where torchvision is not installed, its stored numbers replace some of the photographs; they
are made again by

    python -m tests.inference.test_preprocessing ../shared/data
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.data.images.crops import eval_image

GOLDEN = Path(__file__).parents[1] / "goldens" / "preprocessing.json"
KEPT = slice(0, None, 20)  # ten of the photographs
CASES = {  # what torchvision's weights expect, and timm's: size, crop_fraction, interpolation
    "torchvision": (224, 0.875, "bilinear"),
    "bicubic": (224, 0.875, "bicubic"),
    "timm": (288, 0.95, "bicubic"),
    "whole": (224, 1.0, "bilinear"),
}
PLACES = ((0.0, 0.0), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.999, 0.999))


def photographs(shared_data: Path) -> list[Path]:
    files = sorted((shared_data / "imagenet_samples").iterdir())
    assert len(files) == 200
    return files


def ours(file: Path, case: str) -> np.ndarray:
    size, crop, method = CASES[case]
    return eval_image(file.read_bytes(), size, crop, max_pixels=10**8, interpolation=method)


def theirs(files: list[Path], case: str) -> Iterator[np.ndarray]:
    """torchvision's views, uint8 [size, size, 3] each."""
    pytest.importorskip("tests.parity.torch_reference", exc_type=ImportError)
    from torchvision import transforms

    size, crop, method = CASES[case]
    interpolation = transforms.InterpolationMode(method)
    resize = transforms.Resize(math.floor(size / crop), interpolation)
    view = transforms.Compose([resize, transforms.CenterCrop(size)])
    for file in files:
        yield np.asarray(view(Image.open(file).convert("RGB")))


def summary(view: np.ndarray) -> dict[str, Any]:
    """Each channel's mean and a few pixels."""
    places = [(int(y * view.shape[0]), int(x * view.shape[1])) for y, x in PLACES]
    return {
        "mean": view.mean((0, 1)).round(4).tolist(),
        "pixels": [view[place].tolist() for place in places],
    }


@pytest.mark.parametrize("case", CASES)
def test_as_torchvision_does(case, shared_data):
    files = photographs(shared_data)
    means = []
    for file, expected in zip(files, theirs(files, case), strict=True):
        view = ours(file, case)
        assert view.shape == expected.shape and view.dtype == np.uint8
        means.append(np.abs(view.astype(int) - expected).mean())
    # 0 where Pillow and simplejpeg are built on the same libjpeg-turbo
    assert np.mean(means) <= 0.5 and max(means) <= 2


@pytest.mark.parametrize("case", CASES)
def test_as_torchvision_did(case, shared_data):
    kept = json.loads(GOLDEN.read_text())[case]
    files = photographs(shared_data)[KEPT]
    assert list(kept) == [file.name for file in files]
    for file in files:
        found = summary(ours(file, case))
        np.testing.assert_allclose(found["mean"], kept[file.name]["mean"], atol=0.1)
        np.testing.assert_allclose(found["pixels"], kept[file.name]["pixels"], atol=2)


def test_the_kept_numbers_tell_the_filters_apart():
    kept = json.loads(GOLDEN.read_text())
    for name, bilinear in kept["torchvision"].items():
        difference = np.subtract(bilinear["pixels"], kept["bicubic"][name]["pixels"])
        if np.abs(difference).max() > 5:
            return
    pytest.fail("the goldens would not notice the wrong filter")


def regenerate(shared_data: Path) -> None:
    """Writes the golden file; needs torchvision."""
    files = photographs(shared_data)[KEPT]
    kept = {
        case: {
            file.name: summary(view) for file, view in zip(files, theirs(files, case), strict=True)
        }
        for case in CASES
    }
    lines = (f"{json.dumps(case)}: {json.dumps(numbers)}" for case, numbers in kept.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    regenerate(Path(sys.argv[1]))

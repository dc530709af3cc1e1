"""resnet_jax/weights/pretrained.py: the preprocessing that weights usually expect."""

import pytest

from resnet_jax import Preprocessing
from resnet_jax.weights.pretrained import IMAGENET_MEAN, IMAGENET_STD, default_preprocessing

# --- preprocessing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, size, mean, std",
    [
        ("resnet50", 224, IMAGENET_MEAN, IMAGENET_STD),
        ("resnet10t", 176, IMAGENET_MEAN, IMAGENET_STD),
        ("resnetrs50", 160, IMAGENET_MEAN, IMAGENET_STD),
        ("resnetv2_50", 224, (0.5,) * 3, (0.5,) * 3),
        ("resnetv2_50x1_bit", 224, (0.5,) * 3, (0.5,) * 3),
        ("resnetv2_152x4_bit", 480, (0.5,) * 3, (0.5,) * 3),
        ("resnet20_cifar", 32, IMAGENET_MEAN, IMAGENET_STD),
        ("resnetv2_164_cifar", 32, IMAGENET_MEAN, IMAGENET_STD),
        ("lenet5", 32, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_default_preprocessing(name, size, mean, std):
    crop = 1.0 if size == 32 else 0.875
    assert default_preprocessing(name) == Preprocessing(size, crop, "bilinear", mean, std)


def test_the_mean_of_imagenet():
    assert Preprocessing() == Preprocessing(
        224, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


def test_no_such_preprocessing():
    with pytest.raises(ValueError, match="preprocessing interpolation 'lanczos': choose from"):
        Preprocessing(interpolation="lanczos")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"preprocessing size 224\.0: needs int"):
        Preprocessing(size=224.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown model 'resnet5'"):
        default_preprocessing("resnet5")

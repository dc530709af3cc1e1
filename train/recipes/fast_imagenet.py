"""ImageNet-1k in few epochs: FFCV's recipes, with images that grow from 160 to 192 pixels.

    resnet-jax train ffcv-16 --data.dir TFDS_DIR

A triangular rate with its peak at epoch 2; blurred strides; images that grow at the same shares of
the run. `--data.image_size` is the last size, which must stay above `augment.size_start`.
Hardware: 8 GPUs. Expected: top-1 73.8 (16 epochs) and 78.4 % (88 epochs); not measured here.
"""

from train.recipes.base import by_name, derive, share
from train.recipes.imagenet import IMAGENET

_NOTES = (
    "FFCV evaluates at 256 pixels with a flip: after the run, `resnet-jax eval DIR "
    "--data.image_size 256`, without the flip; its filter is before the strided convolutions, here "
    "it is after them"
)

_FFCV_16 = derive(
    IMAGENET,
    "ffcv-16",
    source="libffcv/ffcv-imagenet, rn50_configs; batch size recalled",
    hardware="8 GPUs",
    expected="top-1 73.8 %",
    notes=_NOTES,
    duration="16ep",
    model={"name": "resnetblur50"},
    data={"image_size": 192},
    augment={"size_start": 160, "size_ramp": (share(11, of=16), share(13, of=16))},
    optim={
        "lr": 1.7,
        "lr_batch": 1024,
        "nesterov": False,
        "schedule": "linear",
        "warmup": share(2, of=16),
    },
)
_FFCV_88 = derive(
    _FFCV_16,
    "ffcv-88",
    expected="top-1 78.4 %",
    notes=_NOTES,
    duration="88ep",
    augment={"size_ramp": (share(65, of=88), share(76, of=88))},
    optim={"warmup": share(2, of=88)},
)

RECIPES = by_name(_FFCV_16, _FFCV_88)

"""ImageNet-1k with large batches: Goyal 2017, LARS, and MLPerf's LARS.

    resnet-jax train goyal-8k --data.dir TFDS_DIR

Hardware: 256 GPUs or a TPU pod; on fewer chips, add --optim.accumulate. Expected: in each recipe;
not measured here.
"""

from train.recipes.base import by_name, derive, share
from train.recipes.imagenet import IMAGENET

_GOYAL = derive(
    IMAGENET,
    "goyal-8k",
    source="Goyal 2017 (arXiv:1706.02677), section 5",
    hardware="256 GPUs or a TPU pod; on fewer chips, add --optim.accumulate",
    expected="error 23.74 +- 0.09 % (--batch_size 256: 23.60 +- 0.12)",
    notes="the warm-up begins near 0, not at 0.1; the last division, at epoch 80, is kept",
    batch_size=8192,
    norm_group_size=32,
    model={"head_std": 0.01},
    mix={"label_smoothing": 0.0},
    optim={
        "schedule": "step",
        "milestones": (share(30, of=90), share(60, of=90), share(80, of=90)),
    },
)
_LARS = derive(
    IMAGENET,
    "lars-32k",
    source="You 2017 (arXiv:1708.03888, 1709.05011), tensorflow/tpu and mlcommons lars_util.py; "
    "weight decay recalled",
    hardware="a TPU pod; on fewer chips, add --optim.accumulate",
    expected="top-1 74.9 % (64 epochs)",
    duration="64ep",
    batch_size=32_768,
    optim={
        "name": "lars",
        "lr": 34.0,
        "lr_batch": 32_768,
        "nesterov": False,
        "schedule": "polynomial",
        "warmup": share(25, of=64),
    },
)
_MLPERF = derive(
    _LARS,
    "mlperf-lars",
    source="mlcommons/training image_classification",
    hardware="16 chips or more; on fewer, add --optim.accumulate",
    expected="top-1 >= 75.9 %",
    notes="an epsilon of 0 is LARS as it is here",
    duration="42ep",
    batch_size=4096,
    optim={
        "lr": 10.0,
        "lr_batch": 4096,
        "weight_decay": 2e-4,
        "warmup": share(5, of=42),
        "floor": 1e-4,
    },
)

RECIPES = by_name(_GOYAL, _LARS, _MLPERF)

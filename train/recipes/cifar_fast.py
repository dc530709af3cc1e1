"""CIFAR-10 in a few minutes: a shallow residual network, in the spirit of Page's ResNet-9.

    resnet-jax train cifar10-fast --data.dir TFDS_DIR

Three wide blocks after a pooled stem; a triangular schedule; label smoothing 0.2; crops of 2
pixels, flips and cutout; an average of the weights. All are parts that other recipes have too.
Hardware: one GPU; it is small enough for CPUs. Expected: top-1 about 94 % is the aim; not measured.
One epoch alone gave 55.0 % in 12 minutes on two busy CPU cores (one seed).
"""

from train.recipes.base import by_name, derive
from train.recipes.cifar import CIFAR10

_FAST = derive(
    CIFAR10,
    "cifar10-fast",
    source="after Page's ResNet-9 (2018) and KellerJordan/cifar10-airbench (94.01 %, n = 1000); "
    "the rates are ours",
    hardware="any",
    measured="1 of 12 epochs: top-1 55.0 %",
    expected="top-1 94 % is the aim",
    notes="residual, as neither source is; no whitened first layer, no lookahead, one view at test",
    duration="12ep",
    batch_size=512,
    ema_decay=0.99,
    model={
        "name": "resnet8_cifar",
        "stem_pool": "max",
        "stem_width": 64,
        "stage_widths": (64, 256, 256),
        "shortcut": "B",
    },
    augment={"pad": 2, "pad_mode": "reflect"},
    mix={"label_smoothing": 0.2, "cutout": 8},
    optim={
        "lr": 0.4,
        "lr_batch": 512,
        "schedule": "linear",
        "warmup": "20%",
        "weight_decay": 5e-4,
        "decay_mask": "kernels",
    },
    eval={"every": "2ep", "batch_size": 1000},
)

RECIPES = by_name(_FAST)

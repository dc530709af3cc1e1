"""ResNet strikes back (Wightman 2021, arXiv:2110.00476): procedures A1, A2 and A3.

    resnet-jax train rsb-a1 --data.dir TFDS_DIR

LAMB, binary cross-entropy, RandAugment, mixup or CutMix in each batch. With another batch size, the
rate grows with its square root, as timm does for LAMB. The targets of the binary cross-entropy are
soft, as in mmpretrain's configs. Gradients are clipped to a norm of 1, the default of timm's LAMB.
Hardware: 8 GPUs or a TPU slice. Expected: 80.38, 79.83 and 78.05 % at 224 pixels; not measured
here.
"""

from train.config.presets import PRESETS
from train.recipes.base import by_name, derive, share
from train.recipes.imagenet import IMAGENET

_PRESET = PRESETS["rsb-a1"]

_A1 = derive(
    IMAGENET,
    "rsb-a1",
    source="Wightman 2021 (arXiv:2110.00476), mmpretrain configs/resnet/*rsb*, timm's results",
    expected="top-1 80.38 %",
    duration="600ep",
    batch_size=2048,
    model={"drop_path": 0.05},
    augment={
        "policy": _PRESET.policy,
        "interpolation": _PRESET.interpolation,
        "fill": _PRESET.fill,
        "repeats": _PRESET.repeats,
    },
    mix={"mixup": 0.2, "cutmix": 1.0},
    loss={"name": "bce"},
    optim={
        "name": "lamb",
        "lr": 5e-3,
        "lr_batch": 2048,
        "scaling": "sqrt",
        "nesterov": False,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        "warmup": share(5, of=600),
        "floor": 1e-6,
        "clip": 1.0,
    },
    eval={"crop_fraction": 0.95, "interpolation": "bicubic"},
)
_A2 = derive(
    _A1,
    "rsb-a2",
    expected="top-1 79.83 %",
    duration="300ep",
    mix={"label_smoothing": 0.0, "mixup": 0.1},
    optim={"weight_decay": 0.02, "warmup": share(5, of=300)},
)
_A3 = derive(
    _A2,
    "rsb-a3",
    expected="top-1 78.05 % at 224 (trained at 224, mmpretrain: 78.30)",
    notes="the run evaluates at its training size; after it, `resnet-jax eval DIR "
    "--data.image_size 224`",
    duration="100ep",
    model={"drop_path": None},
    data={"image_size": 160},
    augment={"policy": "rand-m6-mstd0.5-inc1", "repeats": 1},
    optim={"lr": 8e-3, "warmup": share(5, of=100)},
)

RECIPES = by_name(_A1, _A2, _A3)

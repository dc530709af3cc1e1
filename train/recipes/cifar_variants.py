"""Later networks for CIFAR-10: pre-activation, wide, ResNeXt, and GluonCV's runs with mixup.

    resnet-jax train cifar10-wrn28-10 --data.dir TFDS_DIR

All have Nesterov momentum, a batch of 128, and a step schedule in shares of the run.
Hardware: one GPU. Expected: in each recipe; not measured here.
"""

from train.recipes.base import Recipe, by_name, derive, share
from train.recipes.cifar import CIFAR10

_EPOCHS_81_122 = (share(81, of=200), share(122, of=200))

_PREACT = derive(
    CIFAR10,
    "cifar10-preact164",
    source="He 2016b (arXiv:1603.05027), KaimingHe/resnet-1k-layers README",
    expected="error 5.46 %",
    duration="200ep",
    model={"name": "resnetv2_164_cifar"},
    optim={"milestones": _EPOCHS_81_122},
)
_PREACT_1001 = derive(
    _PREACT,
    "cifar10-preact1001",
    expected="error 4.92 %",
    model={"name": "resnetv2_1001_cifar"},
)

_WIDE = derive(
    CIFAR10,
    "cifar10-wrn28-10",
    source="Zagoruyko 2016 (arXiv:1605.07146), szagoruyko/wide-residual-networks README",
    expected="error 4.00 %",
    duration="200ep",
    model={"name": "wrn28_10_cifar"},
    augment={"pad_mode": "reflect"},
    optim={
        "weight_decay": 5e-4,
        "milestones": (share(60, of=200), share(120, of=200), share(160, of=200)),
        "gamma": 0.2,
    },
)
_WIDE_DROPOUT = derive(
    _WIDE,
    "cifar10-wrn28-10-dropout",
    expected="error 3.89 %",
    model={"block_dropout": 0.3},
)

_RESNEXT = derive(
    CIFAR10,
    "cifar10-resnext29-8x64d",
    source="Xie 2017 (arXiv:1611.05431), facebookresearch/ResNeXt",
    expected="error 3.65 % (mean of 10 runs)",
    hardware="8 GPUs",
    duration="300ep",
    model={"name": "resnext29_8x64d_cifar"},
    optim={"weight_decay": 5e-4},
)
_RESNEXT_16 = derive(
    _RESNEXT,
    "cifar10-resnext29-16x64d",
    expected="error 3.58 %",
    model={"name": "resnext29_16x64d_cifar"},
)


_GLUON = "GluonCV, scripts/classification/cifar; accuracies from its csv of results"
_GLUON_NOTES = (
    "the schedule without mixup is recalled; one lambda for each batch of a device there, for the "
    "whole batch here"
)


def _gluon(depth: int, plain: float, mixed: float) -> tuple[Recipe, Recipe]:
    """200 epochs without mixup, 350 with it, off in the last 20."""
    alone = derive(
        CIFAR10,
        f"cifar10-gluoncv-resnet{depth}",
        source=_GLUON,
        expected=f"top-1 {plain} %",
        notes=_GLUON_NOTES,
        duration="200ep",
        model={"name": f"resnet{depth}_cifar", "kernel_init": "xavier_uniform"},
        data={"std": (0.2023, 0.1994, 0.2010)},
        optim={"milestones": (share(100, of=200), share(150, of=200))},
    )
    return alone, derive(
        alone,
        f"{alone.name}-mixup",
        expected=f"top-1 {mixed} %",
        notes=_GLUON_NOTES,
        duration="350ep",
        mix={"mixup": 1.0, "off": share(20, of=350)},
        optim={"milestones": (share(150, of=350), share(250, of=350))},
    )


_GLUON_20 = _gluon(20, 92.1, 92.9)
_GLUON_110 = _gluon(110, 93.0, 95.2)
_GLUON_WIDE = derive(
    _GLUON_20[0],
    "cifar10-gluoncv-wrn28-10",
    expected="top-1 95.6 %",
    notes=_GLUON_NOTES,
    model={"name": "wrn28_10_cifar"},
    optim={
        "weight_decay": 5e-4,
        "milestones": (share(60, of=200), share(120, of=200), share(160, of=200)),
        "gamma": 0.2,
    },
)
_GLUON_WIDE_MIXUP = derive(
    _GLUON_WIDE,
    "cifar10-gluoncv-wrn28-10-mixup",
    expected="top-1 97.2 %",
    notes=_GLUON_NOTES,
    duration="220ep",
    mix={"mixup": 1.0, "off": share(20, of=220)},
    optim={"milestones": (share(60, of=220), share(120, of=220), share(160, of=220))},
)

RECIPES = by_name(
    *(_PREACT, _PREACT_1001, _WIDE, _WIDE_DROPOUT, _RESNEXT, _RESNEXT_16),
    *(*_GLUON_20, *_GLUON_110, _GLUON_WIDE, _GLUON_WIDE_MIXUP),
)

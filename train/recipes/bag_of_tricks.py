"""Each rung of "Bag of Tricks" (He 2019, arXiv:1812.01187), from the baseline to mixup.

    resnet-jax train bag-baseline --data.dir TFDS_DIR

Each recipe is the one above it plus one trick. The paper's FP16 is bfloat16 here.
Distillation (78.67 % alone, 79.29 % with mixup) does not exist in this program yet, so mixup here
is the row without it.
The paper reports that smoothing, distillation and mixup hurt segmentation.
Hardware: 8 GPUs or a TPU slice. Expected, top-1 from its tables 4 to 6: in each recipe; not
measured here.
"""

from train.config.presets import PRESETS
from train.recipes.base import by_name, derive, share
from train.recipes.imagenet import FB

_PRESET = PRESETS["bag-of-tricks"]

_BASELINE = derive(
    FB,
    "bag-baseline",
    source="He 2019 (arXiv:1812.01187), 2.1 and tables 4 to 6",
    expected="top-1 75.87 %",
    notes="colour: brightness, contrast and saturation, as in its code; the paper names hue in "
    "place of contrast",
    duration="120ep",
    precision="fp32",
    # stride on the first 1x1: moving it is the trick B
    model={"name": "resnet50_v1", "kernel_init": "xavier_uniform"},
    augment={"jitter": _PRESET.jitter, "lighting": _PRESET.lighting},
    data={
        "mean": (123.68 / 255, 116.779 / 255, 103.939 / 255),
        "std": (58.393 / 255, 57.12 / 255, 57.375 / 255),
    },
    optim={"milestones": (share(30, of=120), share(60, of=120), share(90, of=120))},
)
_LINEAR = derive(
    _BASELINE, "bag-linear-scaling", expected="top-1 75.17 % (batch 256: 75.87)", batch_size=1024
)
_WARMUP = derive(
    _LINEAR,
    "bag-warmup",
    expected="top-1 75.93 % (batch 256: 76.03)",
    optim={"warmup": share(5, of=120)},
)
_ZERO_GAMMA = derive(
    _WARMUP,
    "bag-zero-gamma",
    expected="top-1 76.37 % (batch 256: 76.19)",
    model={"zero_gamma": True},
)
_NO_BIAS_DECAY = derive(
    _ZERO_GAMMA,
    "bag-no-bias-decay",
    expected="top-1 76.03 % (batch 256: 76.16)",
    optim={"decay_mask": "kernels"},
)
_EFFICIENT = derive(
    _NO_BIAS_DECAY,
    "bag-efficient",
    expected="top-1 76.21 % (batch 256: 76.15), with FP16",
    precision="bf16",
)
_B = derive(_EFFICIENT, "bag-b", expected="top-1 76.66 %", model={"name": "resnet50"})
_C = derive(_B, "bag-c", expected="top-1 76.87 %", model={"name": "resnet50c"})
_D = derive(_C, "bag-d", expected="top-1 77.16 %", model={"name": "resnet50d"})
_COSINE = derive(
    _D,
    "bag-cosine",
    expected="top-1 77.91 %",
    optim={"schedule": "cosine", "milestones": ("50%", "75%")},
)
_SMOOTHING = derive(
    _COSINE,
    "bag-smoothing",
    expected="top-1 78.31 %",
    mix={"label_smoothing": 0.1, "smooth_over": "others"},
)
_MIXUP = derive(
    _SMOOTHING,
    "bag-mixup",
    expected="top-1 79.15 % (without distillation)",
    duration="200ep",
    mix={"mixup": 0.2, "per": "example"},
    optim={"warmup": share(5, of=200)},
)

RECIPES = by_name(
    *(_BASELINE, _LINEAR, _WARMUP, _ZERO_GAMMA, _NO_BIAS_DECAY, _EFFICIENT),
    *(_B, _C, _D, _COSINE, _SMOOTHING, _MIXUP),
)

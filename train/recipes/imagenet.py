"""ImageNet-1k, 90 epochs: the usual baseline since Goyal 2017; and recipes of single networks.

    resnet-jax train imagenet-resnet50 --data.dir TFDS_DIR

ResNet v1.5; linear scaling, 5 epochs of warmup and zero-gamma (Goyal 2017); cosine schedule, label
smoothing and no weight decay of BatchNorm and biases (Bag of Tricks, sections 3.1, 5.1, 5.2).
Hardware: 8 GPUs or a TPU slice. Expected: top-1 about 77 %; not measured here. The nearest
published result is GluonCV's ResNet50_v1b: 77.67 % with cosine schedule, label smoothing and colour
jitter in 120 epochs. (Table 6 of Bag of Tricks is about ResNet-50-D: 77.16 % with step
decay, 77.91 % with cosine.)

Activations are bfloat16 in all recipes of ImageNet, unless they say fp32; the sources of most were
trained in float32 or float16.
"""

from train.config import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    MixConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from train.config.presets import PRESETS
from train.recipes.base import Recipe, by_name, derive, share

IMAGENET = Recipe(
    source="Goyal 2017 (arXiv:1706.02677), He 2019 (arXiv:1812.01187)",
    hardware="8 GPUs or a TPU slice",
    expected="top-1 about 77 %",
    config=RunConfig(
        recipe="imagenet-resnet50",
        duration="90ep",
        batch_size=1024,
        model=ModelConfig(name="resnet50"),
        data=DataConfig(name="imagenet2012", eval_split="validation", threads=16),
        mix=MixConfig(label_smoothing=0.1),
        optim=OptimConfig(lr=0.1, nesterov=True, weight_decay=1e-4, warmup=share(5, of=90)),
        eval=EvalConfig(batch_size=1024),
        checkpoint=CheckpointConfig(every="500st"),
    ),
)

THIRDS = (share(30, of=90), share(60, of=90))

FB = derive(
    IMAGENET,
    "fb-resnet50",
    source="facebookarchive/fb.resnet.torch, README, train.lua, datasets/imagenet.lua",
    expected="error 24.01 %",
    batch_size=256,
    model={"zero_gamma": False},
    augment={"jitter": (0.4, 0.4, 0.4, 0.0), "lighting": 0.1},
    mix={"label_smoothing": 0.0},
    optim={"schedule": "step", "milestones": THIRDS, "warmup": "0st", "decay_mask": "all"},
)

_HE = derive(
    FB,
    "he2015-resnet50",
    source="He 2016a (arXiv:1512.03385), 3.4, KaimingHe/deep-residual-networks README; "
    "schedule recalled",
    expected="1-crop error 24.7 % (10-crop 22.9 %)",
    notes="the paper divides the rate when the error plateaus: here at 25, 50 and 75 % of the run, "
    "which is ours; mean of each channel, not of each pixel",
    duration="600000st",
    model={"name": "resnet50_v1", "kernel_fan": "in"},
    augment={
        "scale": PRESETS["he2015"].scale,
        "lighting": PRESETS["he2015"].lighting,
        "jitter": (0.0, 0.0, 0.0, 0.0),
    },
    optim={"nesterov": False, "milestones": ("25%", "50%", "75%")},
)

TORCHVISION = derive(
    FB,
    "torchvision-v1-resnet50",
    source="pytorch/vision, references/classification and models/resnet.py",
    expected="top-1 76.130 %",
    notes="with --model.name resnet18: 69.758, resnet34: 73.314, resnet101: 77.374, resnet152: "
    "78.312",
    augment={"jitter": (0.0, 0.0, 0.0, 0.0), "lighting": 0.0},
    optim={"nesterov": False},
)

_TORCHVISION_2 = derive(
    TORCHVISION,
    "torchvision-v2-resnet50",
    source="pytorch/vision#3995, #5084, models/resnet.py",
    expected="top-1 80.858 %",
    notes="the run evaluates at its training size: then `resnet-jax eval DIR --data.image_size 224`"
    "; the classifier's bias does not decay here; the warm-up begins at its first step's share of "
    "the rate, not at 0.01 of it",
    duration="600ep",
    batch_size=1024,
    ema_decay=0.99998,
    ema_every="32st",
    ema_rule="torchvision",
    data={"image_size": 176},
    augment={
        "policy": PRESETS["torchvision-v2"].policy,
        "repeats": PRESETS["torchvision-v2"].repeats,
    },
    mix={"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "erasing": 0.1},
    optim={
        "lr": 0.5,
        "lr_batch": 1024,
        "schedule": "cosine",
        "milestones": ("50%", "75%"),
        "warmup": share(5, of=600),
        "weight_decay": 2e-5,
        "decay_mask": "kernels",
    },
    eval={"crop_fraction": 224 / 232},
)

_RS = derive(
    IMAGENET,
    "imagenet-resnetrs50",
    source="Bello 2021 (arXiv:2103.07579), tensorflow/tpu resnet_rs; cosine and warm-up recalled",
    expected="top-1 78.8 %",
    duration="350ep",
    batch_size=4096,
    ema_decay=0.9999,
    model={"name": "resnetrs50", "dropout": 0.25},
    data={"image_size": 160},
    augment={"policy": "rand-m10-n2"},
    optim={"nesterov": False, "weight_decay": 4e-5, "warmup": share(5, of=350)},
)

RECIPES = by_name(IMAGENET, _HE, FB, TORCHVISION, _TORCHVISION_2, _RS)

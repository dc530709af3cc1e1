"""Any folder of photos: DIR/{train,val}/CLASS/*, or DIR/CLASS/* with a share held out.

    resnet-jax train folder --data.dir DIR

Trains a ResNet-18 from random weights.
Hardware: any; float32, because bfloat16 is slow on most CPUs (on a GPU or TPU: --precision bf16).
Expected: depends on the data. Measured with 400 photos of cats and dogs (chance: 50 %): top-1 60 %
after 20 epochs. With few photos, start from pretrained weights: --init.weights.
"""

from train.config import DataConfig, EvalConfig, MixConfig, ModelConfig, OptimConfig, RunConfig
from train.recipes.base import Recipe, by_name

_FOLDER = Recipe(
    source="this program; no paper",
    hardware="any; on a GPU or TPU, add --precision bf16",
    expected="depends on the data",
    measured="400 photos of cats and dogs: top-1 60 % after 20 epochs",
    config=RunConfig(
        recipe="folder",
        duration="60ep",
        batch_size=32,
        precision="fp32",
        model=ModelConfig(name="resnet18"),
        data=DataConfig(name="folder", eval_split="val", image_size=128),
        mix=MixConfig(label_smoothing=0.1),
        optim=OptimConfig(lr=0.05, lr_batch=32, nesterov=True, weight_decay=5e-4, warmup="5%"),
        eval=EvalConfig(every="5ep", batch_size=50),
        log_every="10st",
    ),
)

RECIPES = by_name(_FOLDER)

"""Any folder of photos: DIR/{train,val}/CLASS/*, or DIR/CLASS/* with a share held out.

    resnet-jax train folder --data.dir DIR

Trains a ResNet-18 from random weights.
Hardware: any; float32, so that a laptop's CPU is not left behind (a GPU or TPU: --precision bf16).
Expected: it is your data. Measured with 400 photos of cats and dogs (a coin's toss is 50 %): top-1
60 % after 20 epochs. That few photos want pretrained weights.
"""

from train.config import DataConfig, EvalConfig, MixConfig, ModelConfig, OptimConfig, RunConfig

RECIPES = {
    "folder": RunConfig(
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
}

"""ImageNet-1k, 90 epochs: the baseline that every paper since Goyal 2017 compares with.

    resnet-jax train imagenet-resnet50 --data.dir TFDS_DIR

v1.5, linear scaling and 5 epochs of warmup, zero-gamma (Goyal 2017), cosine schedule, label
smoothing and no decay of BatchNorm and biases (Bag of Tricks, sections 3.1, 5.1, 5.2).
Hardware: 8 GPUs or a TPU slice. Expected: top-1 about 77 % (Bag of Tricks, table 6: 77.2 for
ResNet-50-D with cosine 77.9); not measured here.
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

RECIPES = {
    "imagenet-resnet50": RunConfig(
        recipe="imagenet-resnet50",
        duration="90ep",
        batch_size=1024,
        model=ModelConfig(name="resnet50"),
        data=DataConfig(name="imagenet2012", eval_split="validation", threads=16),
        mix=MixConfig(label_smoothing=0.1),
        optim=OptimConfig(lr=0.1, nesterov=True, weight_decay=1e-4, warmup="5ep"),
        eval=EvalConfig(batch_size=1024),
        checkpoint=CheckpointConfig(every="500st"),
    ),
}

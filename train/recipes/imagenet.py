"""ImageNet-1k, 90 epochs: the baseline that every paper since Goyal 2017 compares with.

    resnet-jax train imagenet-resnet50 --data.dir TFDS_DIR

v1.5, linear scaling and 5 epochs of warmup, zero-gamma (Goyal 2017), cosine schedule, label
smoothing and no decay of BatchNorm and biases (Bag of Tricks, sections 3.1, 5.1, 5.2).
Hardware: 8 GPUs or a TPU slice. Expected: top-1 about 77 %; not measured here. The nearest
published result is GluonCV's ResNet50_v1b: 77.67 % with cosine schedule, label smoothing and colour
jitter in 120 epochs. (Bag of Tricks, table 6, is of ResNet-50-D: 77.16 % with step decay, 77.91 %
with cosine.)
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

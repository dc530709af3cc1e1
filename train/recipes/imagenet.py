"""ImageNet-1k, 90 epochs: the usual baseline since Goyal 2017.

    resnet-jax train imagenet-resnet50 --data.dir TFDS_DIR

ResNet v1.5; linear scaling, 5 epochs of warmup and zero-gamma (Goyal 2017); cosine schedule, label
smoothing and no weight decay of BatchNorm and biases (Bag of Tricks, sections 3.1, 5.1, 5.2).
Hardware: 8 GPUs or a TPU slice. Expected: top-1 about 77 %; not measured here. The nearest
published result is GluonCV's ResNet50_v1b: 77.67 % with cosine schedule, label smoothing and colour
jitter in 120 epochs. (Table 6 of Bag of Tricks is about ResNet-50-D: 77.16 % with step
decay, 77.91 % with cosine.)
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

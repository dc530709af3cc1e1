"""Augmentation of published pipelines: `augment.*` by name.

A preset is a complete `AugmentConfig`. On the command line, `--augment.preset NAME` replaces all
`augment.*` of the recipe before the other options are read, so that an explicit option wins. The
run's config.json has the values, not the name. In Python: `replace(PRESETS["rsb-a1"], flip=False)`.

Options outside of `augment.*`, such as the image size, mixup and random erasing, belong to recipes.
"""

from train.config.augment import AugmentConfig

PRESETS = {
    # He 2016a (arXiv:1512.03385), 3.4: the colour augmentation is that of Krizhevsky 2012.
    "he2015": AugmentConfig(scale=(256, 480), lighting=0.1),
    # He 2019 (arXiv:1812.01187), 2.1, as its code (GluonCV, train_imagenet.py) has it: brightness,
    # contrast and saturation. The paper names hue instead of contrast, and does not say what a
    # factor of the hue, which is an angle, means.
    "bag-of-tricks": AugmentConfig(jitter=(0.4, 0.4, 0.4, 0.0), lighting=0.1),
    # pytorch/vision, references/classification, the recipe of its second weights.
    "torchvision-v2": AugmentConfig(policy="ta_wide", repeats=4),
    # Wightman 2021 (arXiv:2110.00476), procedures A1 and A2; filter and fill as mmpretrain's
    # imagenet_bs256_rsb_a12.py.
    "rsb-a1": AugmentConfig(
        policy="rand-m7-mstd0.5-inc1", interpolation="bicubic", fill=(124, 116, 104), repeats=3
    ),
}

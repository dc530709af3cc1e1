"""The weights of the classes in the loss, by the frequency of each class in the training split."""

import numpy as np

from train.config import ConfigError, RunConfig
from train.data.sources import Source
from train.data.sources.base import listed
from train.data.sources.labels import count_labels
from train.learn.losses import weights_of_counts


def find_class_weights(config: RunConfig, train: Source) -> tuple[float, ...] | None:
    """The numbers of `loss.class_weights`; None: it is "none".

    A rule counts the labels of the training split, for which a TFDS data set is read once.

    Raises:
      ConfigError: there is not one number for each class, or a class has no training images.
    """
    rule, names = config.loss.class_weights, train.class_names
    if rule == "none":
        return None
    if isinstance(rule, tuple):
        if len(rule) != len(names):
            raise ConfigError(
                f"loss.class_weights: has {len(rule)} numbers; the data have {len(names)} classes"
            )
        return rule
    counts = count_labels(train, config.data)
    if empty := [names[i] for i in np.flatnonzero(counts == 0).tolist()]:
        raise ConfigError(
            f"loss.class_weights {rule}: no training images of {listed(empty)}; remove these "
            "classes, or give one number for each class"
        )
    return tuple(weights_of_counts(counts, root=rule == "sqrt_inverse").tolist())

"""train/learn/tasks/multi_label.py: average precision against scikit-learn, and the task."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from train.config import ConfigError, DataConfig, LossConfig, MixConfig, RunConfig
from train.learn.losses import binary_cross_entropy, sigmoid_focal
from train.learn.prepare import make_prepare
from train.learn.tasks import MultiLabel, make_task
from train.learn.tasks.multi_label import average_precision

NAN = float("nan")


def draw(count: int, classes: int, *, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    scores = rng.integers(0, 4, (count, classes)) / 4 if tied else rng.random((count, classes))
    return (rng.random((count, classes)) < 0.3).astype(np.uint8), scores.astype(np.float32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("count", [1, 2, 17, 300])
def test_average_precision_is_sklearns(count, tied):
    labels, scores = draw(count, 6, tied=tied)
    found = average_precision(labels, scores)
    seen = labels.any(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes without a label
        expected = np.atleast_1d(average_precision_score(labels, scores, average=None))
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-12)
    assert np.isnan(found[~seen]).all()


def test_the_mean_is_over_the_classes_that_have_images():
    labels, scores = draw(50, 4, tied=False)
    labels[:, 2] = 0
    task = MultiLabel(LossConfig(name="bce"))
    found = task.whole_split({"label": labels, "score": scores})
    kept = [0, 1, 3]
    expected = average_precision_score(labels[:, kept], scores[:, kept], average="macro")
    assert found == {"map": pytest.approx(expected)}
    assert np.isnan(task.whole_split({"label": 0 * labels, "score": scores})["map"])
    scores[7, 1] = NAN  # not a number is never good
    assert np.isnan(task.whole_split({"label": labels, "score": scores})["map"])


X = jnp.asarray([[2.0, -1.0, 0.5], [-3.0, 0.25, NAN]])
Y = jnp.asarray([[1, 0, 1], [0, 0, 1]], jnp.uint8)


def test_metrics_of_an_example():
    task = MultiLabel(LossConfig(name="bce"))
    found = task.metrics(X, {"label": Y})
    assert found["exact"].tolist() == [1, 0]
    np.testing.assert_allclose(found["decisions"], [1, 1 / 3], rtol=1e-6)
    examples = task.examples(X[:1], {"label": Y[:1]})
    np.testing.assert_allclose(examples["score"], jax.nn.sigmoid(X[:1]))
    assert examples["label"].dtype == np.uint8


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses(reduction):
    weights = (0.5, 2.0, 3.0)
    batch = {"target": Y[:1].astype(jnp.float32)}
    options = {"reduction": reduction, "weights": jnp.asarray(weights)}
    found = {}
    for name in ("bce", "focal"):
        config = LossConfig(name=name, reduction=reduction, class_weights=weights)
        found[name] = MultiLabel(config).loss(X[:1], batch)
    expected = binary_cross_entropy(X[:1], batch["target"], **options)
    np.testing.assert_array_equal(found["bce"], expected)
    expected = sigmoid_focal(X[:1], batch["target"], 2.0, **options)
    np.testing.assert_array_equal(found["focal"], expected)


def test_which_task_a_config_has():
    several = DataConfig(name="npz", dir="x", multi_label=True)
    config = RunConfig(data=several, loss=LossConfig(name="focal"))
    assert isinstance(make_task(config), MultiLabel)
    assert make_task(config).ranking("top1").name == "map"
    assert make_task(config).loss_metric.unit == "nats per class"
    with pytest.raises(ConfigError, match=r"loss.name 'cross_entropy': data.multi_label needs bce"):
        RunConfig(data=several)


def prepared(mix: MixConfig, label: np.ndarray, train: bool = True) -> dict:
    image = np.zeros((len(label), 4, 4, 3), np.uint8)
    batch = {"image": jnp.asarray(image), "label": jnp.asarray(label)}
    return make_prepare(3, (0.5,), (0.25,), mix)(batch, train=train, key=jax.random.key(0))


def test_targets_are_the_labels():
    label = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    found = prepared(MixConfig(label_smoothing=0.2), label, train=False)
    np.testing.assert_array_equal(found["target"], label)
    assert found["target"].dtype == np.float32


@pytest.mark.parametrize(("over", "no", "yes"), [("all", 0.1, 0.9), ("others", 0.2, 0.8)])
def test_each_label_is_smoothed_over_yes_and_no(over, no, yes):
    label = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    found = prepared(MixConfig(label_smoothing=0.2, smooth_over=over), label)
    np.testing.assert_allclose(found["target"], np.where(label, yes, no), rtol=1e-6)
    np.testing.assert_array_equal(found["label"], label)


def test_mixed_labels_are_those_above_a_half():
    label = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    found = prepared(MixConfig(mixup=0.2), label)
    share = float(found["target"][0, 0])  # of the first image's own labels
    assert 0 < share < 1 and found["target"][0].tolist() == pytest.approx([share, 1 - share, 1])
    np.testing.assert_array_equal(found["label"], np.asarray(found["target"]) > 0.5)
    assert found["label"].dtype == np.uint8

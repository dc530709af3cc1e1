"""Ties and NaN: metrics, predictions, the report and `predict` follow the same rule."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import Preprocessing
from tests.report.test_report import Page
from train.config import MixConfig
from train.distributed.mesh import make_mesh, put_batch
from train.inference.predict import classify
from train.learn.prepare import make_prepare
from train.learn.step import make_eval_step
from train.learn.tasks import NO_CLASS, Classify, top_class
from train.report.base import Examples
from train.report.page import write_report

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([1, 3, 2], 1),
        ([3, 3, 2], NO_CLASS),
        ([1, 2, 2], NO_CLASS),
        ([2, 2, 3], 2),  # ties of other classes do not matter
        ([0.5, 0.5, 0.5], NO_CLASS),
        ([NAN, NAN, NAN], NO_CLASS),
        ([1, NAN, 0], NO_CLASS),
        ([INF, 0, -INF], 0),
        ([INF, INF, 0], NO_CLASS),
        ([-INF, -INF, -INF], NO_CLASS),
        ([7], 0),
        ([NAN], NO_CLASS),
    ],
    ids=str,
)
def test_the_rule(logits, expected):
    found = top_class(jnp.asarray([logits], jnp.float32))
    assert found.dtype == jnp.int32 and found.tolist() == [expected]


def test_top1_is_where_the_prediction_is_the_label():
    """With logits that are small integers, which are often tied, NaN or infinite."""
    rng = np.random.default_rng(0)
    values = rng.choice(
        [0.0, 1.0, 2.0, 3.0, NAN, INF, -INF], (4000, 4), p=[0.2] * 4 + [0.1, 0.06, 0.04]
    )
    label = jnp.asarray(rng.integers(0, 4, 4000), jnp.int32)
    logits = jnp.asarray(values, jnp.float32)
    top1 = np.asarray(Classify().metrics(logits, {"label": label})["top1"])
    np.testing.assert_array_equal(top1 == 1, top_class(logits) == label)
    assert 200 < top1.sum() < 1000
    first = np.asarray(logits.argmax(-1) == label)
    assert (first & (top1 == 0)).sum() > 100  # the first of several equal logits does not count


class FixedLogits(nn.Module):
    """Logits chosen by the first pixel of an image: 0: class 1; 1: tied; 2: constant; 3: NaN."""

    @nn.compact
    def __call__(self, x, *, train):
        del train
        kinds = jnp.asarray([[0, 2, 1.0], [2, 2, 0], [1, 1, 1], [NAN, 0, 0]])
        return kinds[jnp.round(x[:, 0, 0, 0] * 255).astype(int)]


def images(kinds: list[int]) -> np.ndarray:
    return np.broadcast_to(np.uint8(kinds)[:, None, None, None], (len(kinds), 2, 2, 3)).copy()


def test_the_report_counts_what_top1_counts(tmp_path):
    kinds, label = [0, 0, 1, 1, 2, 2, 3, 3], np.int32([1, 2, 0, 1, 0, 2, 0, 1])
    prepare = make_prepare(3, (0.0,), (1.0,), MixConfig())
    mesh = make_mesh(jax.devices()[:1])
    batch = {"image": images(kinds), "label": label, "mask": np.ones(8, np.float32)}
    evaluate = make_eval_step(FixedLogits(), Classify(), prepare, mesh)
    sums, examples = jax.device_get(evaluate({}, put_batch(batch, mesh)))
    assert sums["top1"] == 1
    assert examples["prediction"].tolist() == [1, 1] + [NO_CLASS] * 6
    names = [f"{i}.png" for i in range(8)]
    page = Page(
        write_report(
            tmp_path,
            Classify(),
            Examples(examples, names, ["red", "green", "blue"], lambda i: images(kinds)[i]),
        )
    )
    assert page.rows("matrix") == [
        ["red", "0", "0", "0", "3"],
        ["green", "0", "1", "0", "2"],
        ["blue", "0", "1", "0", "1"],
    ]
    recall = {row[0]: row[2] for row in page.rows("classes")}
    assert recall == {"red": "0.00%", "green": "33.33%", "blue": "0.00%"}
    assert (
        "the highest logits were tied" in page.text and "7 of 8 predictions are wrong" in page.text
    )
    assert page.cards()["Top-1 accuracy"][0] == "12.50%"


def test_without_ties_the_report_has_no_column_for_them(tmp_path):
    values = {"label": np.int32([0, 0]), "prediction": np.int32([0, 1])}
    values |= {"confidence": np.ones(2), "loss": np.ones(2)}
    examples = Examples(values, ["a", "b"], ["red", "green"], lambda i: images([0])[0])
    page = Page(write_report(tmp_path, Classify(), examples))
    assert page.rows("matrix") == [["red", "1", "1"], ["green", "0", "0"]]
    assert "no class" not in page.source.lower()


def test_predict_warns_if_no_class_is_ahead(tmp_path, capsys):
    view = Preprocessing(
        size=2, crop_fraction=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    files = []
    for kind in range(4):
        files.append(tmp_path / f"{kind}.png")
        Image.fromarray(images([kind])[0]).save(files[-1])
    answers = list(classify(FixedLogits(), {}, ["red", "green", "blue"], view, files))
    assert answers[0].predictions[0].name == "green"
    warned = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in warned] == [str(path) for path in files[1:]]
    assert all(
        "no single best class: the highest logits are equal, or a logit is NaN" in s for s in warned
    )

"""resnet_jax/init_stats.py and `models NAME --init-stats`: closed forms, the table and the plot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.init_stats import block_outputs, init_stats
from tests.networks import jit
from train.__main__ import main

LABELS = jnp.arange(4) % 3
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))


def started(name: str = "resnet8_cifar", **options: object):
    model = create_model(name, 3, **options)
    init = jit(lambda key: model.init(key, IMAGES, train=False))
    return model, init(jax.random.key(1))


def test_the_last_block_in_closed_form():
    """Its gradient is that of the mean over pixels, a dense layer and the cross-entropy."""
    model, variables = started(depths=(1, 1), width=8, zero_gamma=False)
    found = init_stats(model, variables, IMAGES, LABELS)
    logits, maps = jit(lambda v: block_outputs(model, v, IMAGES, train=True))(variables)
    error = np.asarray(jax.nn.softmax(logits) - jax.nn.one_hot(LABELS, 3), np.float64)
    gradient = error @ np.asarray(variables["params"]["head"]["kernel"]).T
    last = maps["stage2/block1"]
    pixels = last.shape[1] * last.shape[2]
    assert found["stage2/block1"].gradient == pytest.approx(gradient.std() / pixels, rel=1e-4)
    for name, (activation, _) in found.items():
        assert activation == pytest.approx(float(maps[name].std()), rel=1e-4)


def test_an_earlier_gradient_by_a_difference_quotient():
    model, variables = started(depths=(1, 1), width=8, activation="tanh")
    found = init_stats(model, variables, IMAGES, LABELS, train=False)
    _, maps = jit(lambda v: block_outputs(model, v, IMAGES, train=False))(variables)
    rng = np.random.default_rng(0)

    def loss(moved):
        logits, _ = block_outputs(model, variables, IMAGES, train=False, moved=moved)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[:, None], 1).sum()

    loss, name = jit(loss), "stage1/block1"
    slopes = []
    for _ in range(60):  # along random directions, whose mean square is that of the gradient
        way = {k: np.zeros(v.shape, np.float32) for k, v in maps.items()}
        way[name] = rng.normal(size=maps[name].shape).astype(np.float32)
        ahead, back = (loss({k: s * 0.05 * v for k, v in way.items()}) for s in (1, -1))
        slopes.append(float(ahead - back) / 0.1)
    expected = np.sqrt(np.mean(np.square(slopes)) / maps[name].size)
    assert found[name].gradient == pytest.approx(expected, rel=0.3)


def test_what_the_papers_say_of_deep_networks_without_norms():
    """He 2015: with ReLU, fan_in keeps the deviation, and a fixed small one loses the signal."""
    lasts = {}
    for kind, options in {
        "kaiming": {"kernel_init": "kaiming_normal", "kernel_fan": "in"},
        "small": {"kernel_init": "normal", "kernel_std": 0.01},
    }.items():
        model, variables = started("plain20_cifar", depths=(6,), width=64, **options)
        stats = list(init_stats(model, variables, IMAGES, LABELS, train=False).values())
        lasts[kind] = stats[-1].activation / stats[0].activation
    assert 0.5 < lasts["kaiming"] < 2
    # Ten convolutions with a gain of sqrt(fan_in / 2) * 0.01 each; at the borders it is less.
    assert (np.sqrt(4 * 64 / 2) * 0.01) ** 10 < lasts["small"] < (np.sqrt(9 * 64 / 2) * 0.01) ** 10


def test_the_table_and_the_plot(tmp_path, capsys):
    plot = tmp_path / "p.svg"
    small = ("--model.depths", "1", "1", "--model.width", "8", "--image_size", "8")
    few = ("--schemes", "normal", "zeros", "--activations", "tanh", "--images", "4")
    args = ("models", "resnet8_cifar", "--init-stats", *small, *few, "--plot", str(plot))
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "resnet8_cifar at the start, 4 images of 8 pixels" in " ".join(out.split())
    assert all(word in out for word in ("stage1/block1", "stage2/block1", "normal", "tanh"))
    assert plot.stat().st_size > 5000


@pytest.mark.parametrize(
    "args, message",
    [
        (("resnet5O", "--init-stats"), "--init-stats needs the name of one network; did you mean"),
        (("resnet8_cifar", "--init-stats", "--images", "0"), "--images 0: must be at least 1"),
        (("resnet8_cifar", "--init-stats", "--plot", "no/p.png"), "the directory does not exist"),
        (("resnet8_cifar", "--init-stats", "--schemes", "he"), "--schemes 'he': needs"),
        (("lenet5", "--init-stats", "--image_size", "8"), "lenet5 at --image_size 8: LeNet-5 need"),
    ],
)
def test_messages(args, message, capsys):
    assert main(["models", *args]) == 2
    assert message in capsys.readouterr().err

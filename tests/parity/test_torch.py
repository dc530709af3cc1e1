"""Against torch, if it is installed: training, and round trips of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

reference = pytest.importorskip("tests.parity.torch_reference", exc_type=ImportError)
torch, torchvision, timm = reference.PACKAGES

from safetensors.torch import load_file  # noqa: E402

from resnet_jax import create_model, from_tensors, load_weights, save_weights  # noqa: E402
from tests.parity.fill import fill, images  # noqa: E402
from tests.parity.goldens import size  # noqa: E402

SHALLOW = {"layers": (2, 1, 1, 1)}, {"depths": (2, 1, 1, 1)}
# One for every mechanism; as deep as it takes to have each kind of block.
TRAINED = {
    "resnet18": SHALLOW,
    "resnet50": SHALLOW,
    "resnext50_32x4d": SHALLOW,
    "seresnet50t": SHALLOW,
    "ecaresnet50d": SHALLOW,
    "resnetblur50": SHALLOW,
    "resnetaa50d": SHALLOW,
    "resnetrs50": SHALLOW,
    "senet154": SHALLOW,
    "resnet50_gn": SHALLOW,
    "resnetv2_18d": SHALLOW,
    "resnetv2_50": SHALLOW,
    "resnetv2_50d_gn": SHALLOW,
    "resnetv2_50x1_bit": ({}, {}),
    "test_resnet": ({}, {}),
}
ROUND_TRIPS = {
    "resnet18": "torchvision",
    "wide_resnet50_2": "torchvision",
    "resnext50_32x4d": "torchvision",
    "resnet50_gn": "timm",
    "seresnext26t_32x4d": "timm",
    "ecaresnet26t": "timm",
    "resnetblur18": "timm",
    "resnetrs50": "timm",
    "senet154": "timm",
    "test_resnet": "timm",
    "resnetv2_50t": "timm",
    "resnetv2_50x1_bit": "timm",
}


def numpy_state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    return {key: x.copy() for key, x in state.items() if not key.endswith("num_batches_tracked")}


def relative_errors(got, wanted) -> dict[str, float]:
    """For each leaf: largest difference, relative to the leaf's largest value."""

    def error(a, b):
        return float(np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), 1e-30))

    flat = jax.tree.leaves_with_path(jax.tree.map(error, got, wanted))
    return {jax.tree_util.keystr(path): value for path, value in flat}


@pytest.mark.parametrize("name", TRAINED)
def test_three_steps_of_training(name):
    """Logits, gradients and running statistics of three steps of SGD.

    In float64: in float32 the two round a few pre-activations to different sides of ReLU's kink,
    and one of them moves the gradient of a map of six pixels by a percent.
    """
    theirs, ours = TRAINED[name]
    model = reference.create(name, "timm", num_classes=10, **theirs).train().double()
    height, width = size(name)
    with jax.enable_x64(True):
        net = create_model(name, 10, dtype=jnp.float64, **ours)
        variables = from_tensors(numpy_state(model), name, 10, **ours)
        for step in range(3):
            x = images(height, width, 12)[4 * step : 4 * step + 4].astype(np.float64)
            labels = np.arange(4) + step
            model.zero_grad()
            logits = model(reference.nchw(x))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
            gradients = {key: p.grad.numpy() for key, p in model.named_parameters()}
            wanted = from_tensors({**numpy_state(model), **gradients}, name, 10, **ours)
            got_logits, got, stats = loss_gradient(net, variables, x, labels)

            assert relative_errors(got_logits, logits.detach().numpy())[""] < 1e-9
            worst = relative_errors(got, wanted["params"])
            assert max(worst.values()) < 1e-7, max(worst.items(), key=lambda item: item[1])
            if stats:
                assert max(relative_errors(stats, wanted["batch_stats"]).values()) < 1e-9
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.01 * p.grad
            params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], got)
            variables = {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "seresnet50t", "resnetv2_50"])
def test_training_forward_in_float32(name):
    """Logits and running statistics after three batches, in the precision that trains."""
    theirs, ours = TRAINED.get(name, SHALLOW)
    model = reference.create(name, "timm", **theirs).train()
    variables = from_tensors(numpy_state(model), name, **ours)
    net = create_model(name, **ours)
    for x in np.split(images(*size(name), 12), 3):
        with torch.no_grad():
            wanted = model(reference.nchw(x)).numpy()
        logits, updates = net.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
        variables = {"params": variables["params"], **updates}
        assert relative_errors(logits, wanted)[""] < 1e-4
    wanted = from_tensors(numpy_state(model), name, **ours)["batch_stats"]
    assert max(relative_errors(variables["batch_stats"], wanted).values()) < 1e-4


def loss_gradient(net, variables, x, labels):
    """(logits, gradients, new statistics) in training mode; not jitted, see test_goldens.py."""

    def loss(params):
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, updates = net.apply(tree, jnp.asarray(x), train=True, mutable=["batch_stats"])
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
        return -chosen.mean(), (logits, updates.get("batch_stats", {}))

    gradients, (logits, stats) = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, gradients, stats


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(name, tmp_path):
    source = ROUND_TRIPS[name]
    tensors = numpy_state(reference.create(name, source))
    variables = from_tensors(tensors, name)
    save_weights(variables, tmp_path / "weights.safetensors", name)

    make = timm.create_model if source == "timm" else torchvision.models.get_model
    fresh = make(name)
    state = load_file(tmp_path / "weights.safetensors")
    fresh.load_state_dict(state, strict=True)
    x = images(*size(name), 2)
    with torch.no_grad():
        wanted = fresh.eval()(reference.nchw(x)).numpy()
    logits = create_model(name).apply(variables, jnp.asarray(x), train=False)
    assert relative_errors(logits, wanted)[""] < 1e-4

    returned = numpy_state(fresh)
    assert returned.keys() == tensors.keys()
    assert all(np.array_equal(returned[key], tensors[key]) for key in tensors)
    torch.save({"state_dict": fresh.state_dict()}, tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        again = load_weights(tmp_path / file, name)
        assert jax.tree.all(jax.tree.map(np.array_equal, again, variables)), file


@pytest.mark.parametrize("name", ["resnet34", "resnext101_32x8d", "seresnetaa50d", "resnetv2_34d"])
def test_live(name):
    """The goldens cover all names; this shows that torch still computes them."""
    model = reference.create(name, "timm")
    x = images(*size(name), 2)[::-1].copy()
    with torch.no_grad():
        wanted = model(reference.nchw(x)).numpy()
    variables = from_tensors(numpy_state(model), name)
    logits = create_model(name).apply(variables, jnp.asarray(x), train=False)
    assert relative_errors(logits, wanted)[""] < 1e-4


def test_dilation_as_torchvision_does_it():
    options = {"replace_stride_with_dilation": [False, True, True]}
    model = reference.create("resnet50", "torchvision", **options)
    x = images(64, 75, 2)
    with torch.no_grad():
        wanted = model(reference.nchw(x)).numpy()
    variables = from_tensors(numpy_state(model), "resnet50", output_stride=8)
    logits = create_model("resnet50", output_stride=8).apply(variables, jnp.asarray(x), train=False)
    assert relative_errors(logits, wanted)[""] < 1e-4


def test_the_fill_leaves_nothing_at_zero_or_one():
    for key, tensor in numpy_state(reference.create("resnetv2_18", "timm")).items():
        assert np.isin(tensor, (0, 1)).mean() < 1e-3 and tensor.std() > 0, key
        assert np.array_equal(tensor, fill(key, tensor.shape))

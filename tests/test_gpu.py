"""What an accelerator could get wrong, against float64 on the CPU or bit for bit.

Part of every run of the tests, on a CPU; on the GPU that is there:

    RESNET_JAX_TEST_ON=gpu pytest -m gpu
"""

import os
import subprocess
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks.faults.child_run import same_checkpoint
from resnet_jax.conv import Conv, anti_alias, max_pool
from resnet_jax.norm import BatchNorm
from resnet_jax.resnet import ResNet
from resnet_jax.zoo import get_spec
from tests.data.test_on_device import assert_same_batches
from tests.data.test_pipeline import noise
from tests.networks import images, jit, variables_at_random
from tests.resnet_jax.test_norm import BIAS, SCALE, VARIABLES, pair
from tests.runs import TINY, command, environment
from train.checkpoint.digests import _device_sum, digests, host_digest
from train.checkpoint.reader import read

pytestmark = pytest.mark.gpu

FORMATS = {
    # name: (type, matrix products' precision, relative error that it may make)
    "bf16": (jnp.bfloat16, None, 2**-8),  # a result is rounded to 8 bits
    "float32": (jnp.float32, None, 2**-10),  # a GPU's default rounds factors to TF32, of 11 bits
    "highest": (jnp.float32, "highest", 2**-18),
}


def on_cpu(function, *args):
    """`function` of these arrays in float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in args]
        return jax.tree.map(np.asarray, jax.jit(function)(*wide))


def off(found, exact) -> list[float]:
    """||found - exact|| / ||exact|| of every array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    wide = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs]
    return [float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in wide]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(params=FORMATS)
def form(request):
    dtype, precision, error = FORMATS[request.param]
    with jax.default_matmul_precision(precision):
        yield dtype, error


@pytest.mark.parametrize(
    ("size", "stride", "groups", "channels"),
    [(7, 2, 1, 3), (3, 1, 1, 64), (3, 2, 1, 64), (3, 1, 32, 128), (1, 1, 1, 64), (1, 2, 1, 64)],
)
def test_convolutions(form, size, stride, groups, channels):
    """Output and both gradients: the stem, a block's, ResNeXt's, a projection."""
    dtype, error = form
    conv = Conv(64, size, stride, groups, dtype=dtype)
    x = jnp.asarray(normal(0, 4, 14, 14, channels), dtype)
    kernel = normal(1, size, size, channels // groups, 64).astype(dtype).astype(np.float32)
    up = normal(2, 4, 14 // stride, 14 // stride, 64).astype(dtype)

    def plain(x, kernel):
        pads = [(size // 2, size // 2)] * 2
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride,) * 2, pads, None, None, dimensions, feature_group_count=groups
        )

    def with_gradients(apply, x, kernel, up):
        y, back = jax.vjp(apply, x, kernel)
        return y, *back(up.astype(y.dtype))

    apply = lambda x, kernel: conv.apply({"params": {"kernel": kernel}}, x)  # noqa: E731
    found = jax.jit(partial(with_gradients, apply))(x, kernel, up)
    exact = on_cpu(partial(with_gradients, plain), x, kernel, up)
    assert found[0].dtype == found[1].dtype == dtype
    errors = off(found, exact)
    # On a CPU, XLA of JAX 0.11 sums a strided kernel's gradient in bfloat16
    by_bf16 = 8 if dtype == jnp.bfloat16 and jax.default_backend() == "cpu" else 1
    assert max(errors[:2]) < error and errors[2] < by_bf16 * error, errors


def two_layers(x, kernel, up):
    """A 1x1 convolution and BatchNorm as published: y, batch mean and variance, gradients."""

    def forward(scale, bias, x, kernel):
        z = jnp.einsum("bhwc,cf->bhwf", x, kernel)
        mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
        return scale * (z - mean) / jnp.sqrt(var + 1e-5) + bias, (mean, var)

    params = (jnp.asarray(SCALE, x.dtype), jnp.asarray(BIAS, x.dtype))
    y, back, (mean, var) = jax.vjp(forward, *params, x, kernel, has_aux=True)
    return y, mean, var, back(up)


@pytest.mark.parametrize("as_one", [False, True], ids=["two layers", "as one"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_batch_norm(dtype, as_one):
    """Alone behind a 1x1 convolution, and with the convolution in it, behind a ReLU."""
    x = np.maximum(normal(0, 16, 8, 8, 64), 0).astype(dtype)
    kernel = 0.1 * normal(1, 64, 3)
    with jax.default_matmul_precision("highest"):
        y, stats, (params, dx, dkernel) = pair(
            as_one, jnp.asarray(x), kernel, dtype=dtype, momentum=0.0
        )
    up = np.random.default_rng(9).normal(3, 2, y.shape).astype(np.float32).astype(dtype)
    exact_y, mean, var, (scale, bias, *rest) = on_cpu(two_layers, x, kernel, up)
    count = x.size / x.shape[-1]
    assert y.dtype == dx.dtype == dtype
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    rounded = 2**-8 if dtype == jnp.bfloat16 else 2**-15
    assert off(y, exact_y)[0] < rounded
    moments = (stats["mean"], stats["var"])
    assert max(off(moments, (mean, var * count / (count - 1)))) < rounded
    gradients = (params["scale"], params["bias"], dx, dkernel)
    errors = off(gradients, (scale, bias, *rest))
    assert max(errors) < (2**-5 if dtype == jnp.bfloat16 else 2**-13), errors


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_batch_norm_far_from_zero(dtype):
    """A mean of 100 deviations, once the running mean has come near."""
    x = (100 + normal(0, 32, 8, 8, 3)).astype(dtype)
    stats = {"mean": np.float32([102, 97, 101]), "var": np.ones(3, np.float32)}
    norm, variables = BatchNorm(dtype=dtype, momentum=0.0), {**VARIABLES, "batch_stats": stats}
    y, updates = jax.jit(partial(norm.apply, train=True, mutable=["batch_stats"]))(
        variables, jnp.asarray(x)
    )
    wide = np.asarray(x, np.float64)
    hat = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    assert off(y, hat * SCALE + BIAS)[0] < (2**-8 if dtype == jnp.bfloat16 else 2**-16)
    assert off(updates["batch_stats"]["var"], wide.var((0, 1, 2), ddof=1))[0] < 1e-4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_max_pooling(dtype):
    """The very values; a gradient goes to a pixel that has its window's maximum, and whole."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 50, (4, 14, 14, 32)), dtype)
    up = jnp.asarray(np.random.default_rng(1).integers(1, 5, (4, 7, 7, 32)), dtype)
    y, back = jax.vjp(max_pool, x)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(y, windows.max((-1, -2)))
    (dx,) = back(up)
    assert dx.dtype == dtype and np.asarray(dx, np.float64).sum() == np.asarray(up).sum(dtype=int)
    won = np.zeros(padded.shape, bool)  # by some window's maximum
    for i, j in np.ndindex(7, 7):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        won[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] |= window == window.max((1, 2), keepdims=True)
    assert not np.asarray(dx)[~won[:, 1:-1, 1:-1]].any()


@pytest.mark.parametrize("kind", ["avg", "blur"])
def test_anti_aliasing(form, kind):
    dtype, error = form
    x = jnp.asarray(normal(0, 4, 14, 14, 32), dtype)
    found = jax.jit(partial(anti_alias, kind=kind, stride=2))(x)
    wide = np.asarray(x, np.float64)
    if kind == "avg":
        exact = wide.reshape(4, 7, 2, 7, 2, 32).mean((2, 4))
    else:
        wide = np.pad(wide, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        taps = [(1, 0), (2, 1), (1, 2)]
        exact = sum(
            a * b * wide[:, i : i + 13 : 2, j : j + 13 : 2] / 16 for a, i in taps for b, j in taps
        )
    assert off(found, exact)[0] < error


def test_a_network_and_its_gradient():
    """All of it in float32, against float64."""
    spec = get_spec("resnet8_cifar", depths=(1, 1), width=8)

    def loss(dtype, params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        model = ResNet(spec, dtype=dtype)
        pyramid, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return sum(jnp.square(level).mean() for level in pyramid.values())

    variables = variables_at_random(ResNet(spec))
    args = (variables["params"], variables["batch_stats"], images(16))
    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.value_and_grad(partial(loss, jnp.float32)))(*args)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), args)
        exact = jit(jax.value_and_grad(partial(loss, jnp.float64)))(*wide)
        assert exact[0].dtype == jnp.float64
    assert max(off(found, exact)) < 1e-3, off(found, exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_digests_are_the_hosts(dtype):
    bits = np.random.default_rng(0).integers(0, 256, (300, 1000, jnp.dtype(dtype).itemsize))
    array = bits.astype(np.uint8).view(jnp.dtype(dtype))[..., 0]
    assert digests({"a": jnp.asarray(array)}) == {"a": host_digest(array)}
    assert host_digest(array).endswith(f"{_device_sum(jnp.asarray(array)):08x}")


def test_data_that_live_on_the_device():
    """The host's batches, bit for bit, over the end of an epoch."""
    assert_same_batches(noise(50, size=32), 16, 2, 8, jax.devices()[:1])


@pytest.mark.slow  # two runs; without a GPU, tests/run/test_kill.py has seen to it
def test_the_deterministic_flag_gives_the_same_bits_twice(tmp_path):
    """Of a checkpoint, which is read back by its digests, and of the metrics."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_gpu_deterministic_ops=true"
    env = {**environment(1), "XLA_FLAGS": flags}
    found = []
    for name in ("one", "two"):
        run = command("train", "digits", "--workdir", str(tmp_path / name), *TINY)
        done = subprocess.run(
            [*run, "--duration", "20st"], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(read(tmp_path / name / "checkpoints" / "20"))
    assert same_checkpoint(*found)

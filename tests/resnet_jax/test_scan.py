"""Blocks in a loop: the same network as without, and conversion of variables both ways."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import ResNet, create_model, get_spec, list_models, stack_blocks, unstack_blocks
from resnet_jax.resnet import Stage
from resnet_jax.spec import ResNetSpec
from tests.networks import images, initialised, jit, shapes, variables_at_random
from train.config import OptimConfig
from train.learn.optim import make_optimizer, per_layer

BASIC = ResNetSpec(depths=(4,), block="basic", width=8, stem="3x3")
BOTTLENECK = replace(BASIC, block="bottleneck")
NETWORKS = {
    "basic": replace(BASIC, activation="gelu"),
    "prelu": replace(BASIC, activation="prelu"),
    "bottleneck": replace(BOTTLENECK, attention="se", shortcut="C", groups=2),
    "v2": replace(
        BASIC, depths=(1, 4), shortcut="A", preact=True, attention="eca", output_stride=8
    ),
    "group": replace(
        BASIC, norm="group", norm_groups=4, weight_standardization=True, shortcut="none"
    ),
}


def equal(a: object, b: object) -> bool:
    """Bit-identical, with the same keys."""
    same = lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes() and x.shape == y.shape  # noqa: E731
    return jax.tree.all(jax.tree.map(same, a, b))


def both(name: str) -> tuple[ResNet, ResNet]:
    return ResNet(NETWORKS[name]), ResNet(NETWORKS[name], scan=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_layouts(name):
    plain, looped = both(name)
    variables = variables_at_random(plain)
    stacked = stack_blocks(variables)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, shapes(looped))
    assert equal(unstack_blocks(stacked), variables)
    assert equal(unstack_blocks(variables), variables) and equal(stack_blocks(stacked), stacked)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(stacked))
    assert stack_blocks(shapes(plain)) == shapes(looped)
    assert unstack_blocks(shapes(looped)) == shapes(plain)


def test_names_and_shapes_of_the_stacked_layout():
    params = variables_at_random(ResNet(BASIC))["params"]
    blocks = stack_blocks(params)["stage1"]
    assert blocks.keys() == {"block1", "blocks"}
    for i in range(3):
        given = params["stage1"][f"block{i + 2}"]["norm1"]["bias"]
        np.testing.assert_array_equal(blocks["blocks"]["norm1"]["bias"][i], given)
    assert blocks["blocks"]["conv1"]["kernel"].shape == (3, 3, 3, 8, 8)
    three = {f"block{i}": {"bias": np.zeros(2)} for i in (1, 2, 3)}
    assert stack_blocks({"stage1": three}) == {"stage1": three}


def test_gradients_averages_and_optimiser_states_are_converted():
    params = variables_at_random(ResNet(BASIC))["params"]
    tx = optax.adam(0.1)
    state = jax.eval_shape(tx.init, params)
    stacked = jax.eval_shape(tx.init, stack_blocks(params))
    assert stack_blocks(state) == stacked and unstack_blocks(stacked) == state
    assert stacked[0].mu["stage1"]["blocks"]["norm1"]["bias"].shape == (3, 8)
    traced = jax.jit(lambda tree: unstack_blocks(stack_blocks(tree)))(params)
    assert equal(traced, params)


@pytest.mark.parametrize("output_stride", [32, 8])
def test_blocks_after_the_first_are_identical(output_stride):
    """The premise of the loop, for every network."""
    for name in list_models():
        if isinstance(get_spec(name), ResNetSpec):
            spec = get_spec(name, output_stride=output_stride, drop_block=0.1)
            plans = list(spec.blocks())
            for stage in range(1, len(spec.depths) + 1):
                here = [plan for plan in plans if plan.stage == stage]
                assert len(set(here[1:])) <= 1, (name, stage)


def test_which_networks_are_deep():
    deep = {name for name in list_models("resnet*") if get_spec(name).is_deep}
    assert {"resnet152", "resnet200", "resnet110_cifar", "resnet1202_cifar"} < deep
    assert {"resnetv2_110_cifar", "resnetv2_1001_cifar", "resnetrs152", "resnet152d"} < deep
    assert not deep & {"resnet50", "resnet101", "resnet56_cifar", "resnetrs101"}


@pytest.mark.parametrize("name", ["bottleneck", "v2"])
def test_the_same_initial_variables(name):
    """A seed gives the looped and the plain network the same variables."""
    plain, looped = both(name)
    assert equal(stack_blocks(initialised(plain, 5)), initialised(looped, 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_network(name):
    """Features, gradients of everything and new statistics."""
    plain, looped = both(name)
    variables, x = variables_at_random(plain), images()
    weights = np.random.default_rng(2).normal(size=(4, plain.spec.features)).astype(np.float32)

    def outputs(model: ResNet, variables: dict, x: np.ndarray):
        def loss(params: dict, x: np.ndarray):
            given = {**variables, "params": params}
            pyramid, new = model.apply(given, x, train=True, mutable=["batch_stats"])
            *_, last = pyramid.values()
            return (jnp.tanh(last.mean((1, 2))) * weights).sum(), (pyramid, new)

        grads, (pyramid, new) = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        return pyramid, grads, new

    one = jit(functools.partial(outputs, plain))(variables, x)
    other = unstack_blocks(jit(functools.partial(outputs, looped))(stack_blocks(variables), x))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max(), jax.tree_util.keystr(path)


def test_each_block_skips_at_its_own_rate():
    """Each branch gives 1 in one channel, so the output shows which blocks were skipped."""
    spec = replace(BASIC, drop_path=0.6)
    rates, examples = (0.0, 0.2, 0.4, 0.6), 4096
    backbone = ResNet(spec)
    parts = (backbone._conv_layer(), backbone._norm_layer())
    stage = Stage(spec, tuple(spec.blocks()), rates, *parts, scan=True)
    x = jnp.zeros((examples, 1, 1, 8))
    variables = jax.eval_shape(functools.partial(stage.init, train=False), jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
    variables["params"]["blocks"]["norm2"]["bias"][:, :3] = np.eye(3)
    key = {"dropout": jax.random.key(3)}
    apply = functools.partial(stage.apply, train=True, mutable=["batch_stats"])
    y, _ = jit(lambda x: apply(variables, x, rngs=key))(x)
    kept = np.asarray(y)[:, 0, 0, :3]
    for block, rate in enumerate(rates[1:]):
        values = np.unique(kept[:, block])
        np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-6)
        share = (kept[:, block] > 0).mean()
        assert abs(share - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / examples)
    correlation = np.corrcoef(kept.T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / np.sqrt(examples)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_loop_saves_its_input_and_the_outputs_of_convolutions(dtype):
    """In the type of the activations. The last one is part of its norm but in float32."""
    spec = replace(BOTTLENECK, drop_path=0.1)
    model = ResNet(spec, dtype, scan=True)
    variables = shapes(model)

    def loss(params: dict, x: jax.Array):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        given = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), given)
        key = {"dropout": jax.random.key(0)}
        return model.apply(given, x, train=True, mutable=["batch_stats"], rngs=key)[0]["c2"].sum()

    x = jax.ShapeDtypeStruct((4, 12, 12, 3), jnp.float32)
    program = jax.make_jaxpr(jax.grad(loss, 1))(variables["params"], x)
    forward = next(e for e in program.eqns if e.primitive.name == "scan")
    maps = [var.aval for var in forward.outvars if 12 in var.aval.shape]
    _, *kept = [(a.shape, a.dtype) for a in maps]
    widths = (8, 8, 32, 32) if dtype == jnp.float32 else (8, 8, 32)
    assert sorted(kept) == [((3, 4, 12, 12, c), dtype) for c in widths]


def random_like(params: dict, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)


@pytest.mark.parametrize(
    "tx",
    [
        make_optimizer(OptimConfig(clip=0.5, weight_decay=0.1), optax.constant_schedule(0.1)),
        make_optimizer(
            OptimConfig(name="adamw", weight_decay=0.1, decay="decoupled"),
            optax.constant_schedule(0.1),
        ),
        optax.chain(per_layer(optax.scale_by_trust_ratio()), optax.trace(0.9)),
    ],
    ids=["sgd", "adamw", "trust ratio"],
)
def test_the_same_updates(tx):
    """Clipping by the global norm, decay of kernels only, trust ratios per layer."""
    params = variables_at_random(ResNet(BASIC))["params"]

    def two_steps(params: dict, *grads: dict) -> dict:
        state = tx.init(params)
        for grad in grads:
            updates, state = tx.update(grad, state, params)
            params = optax.apply_updates(params, updates)
        return params

    grads = [random_like(params, seed) for seed in (1, 2)]
    plain = jit(two_steps)(params, *grads)
    stacked = unstack_blocks(jit(two_steps)(*map(stack_blocks, (params, *grads))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), plain, stacked)


def test_a_classifier_of_either_layout():
    plain, looped = (
        create_model("resnet20_cifar", 10, depths=(1, 4), width=4, scan=scan)
        for scan in (False, True)
    )
    variables, x = variables_at_random(plain), images()
    one, other = (
        jit(functools.partial(model.apply, train=False))(given, x)
        for model, given in ((plain, variables), (looped, stack_blocks(variables)))
    )
    np.testing.assert_allclose(one, other, 1e-5, 1e-6)
    lenet = create_model("lenet5", 10, scan=True)
    assert "blocks" not in str(jax.tree.structure(shapes(lenet, 32)))

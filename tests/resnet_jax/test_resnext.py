"""The three forms of figure 3 compute the same, and a network's block is the third of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.block import Block
from resnet_jax.conv import Conv
from resnet_jax.norm import BatchNorm
from resnet_jax.resnext import (
    ConcatenatedBranches,
    GroupedBranch,
    SummedBranches,
    branch_of,
    to_concatenated,
    to_grouped,
    to_summed,
)
from tests.networks import at_random

FORMS = {
    "a": (SummedBranches, to_summed),
    "b": (ConcatenatedBranches, to_concatenated),
}
C_IN, FEATURES = 10, 12
# (groups, group_width, stride)
OPTIONS = [(1, 6, 2), (3, 2, 1), (2, 5, 2), (8, 1, 1), (32, 4, 2)]

# Half of the time here would be XLA optimising programs that run once.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def shapes(module, size: int = 5, channels: int = C_IN) -> dict:
    x = jax.ShapeDtypeStruct((3, size, size, channels), jnp.float32)
    return jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)


def maps(size: int = 5, channels: int = C_IN, seed: int = 2) -> np.ndarray:
    draw = np.random.default_rng(seed).normal(size=(3, size, size, channels))
    return draw.astype(np.float32)


def assert_close(a: object, b: object, rtol: float = 1e-5) -> None:
    """The same tree, and every leaf relative to the largest value in it."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.shape == y.shape
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        worst = np.abs(x - y).max() / np.abs(x).max()
        assert worst <= rtol, f"{jax.tree_util.keystr(path)}: {worst:.2e}"


def everything(module, variables: dict, x: np.ndarray, train: bool) -> dict:
    """Outputs, updated statistics and the gradients of a loss that weighs every output alone."""

    @jit
    def run(params: dict, x: jax.Array) -> dict:
        def loss(params: dict, x: jax.Array) -> tuple[jax.Array, tuple]:
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            y, updates = module.apply(state, x, train=train, mutable=["batch_stats"])
            weight = np.random.default_rng(3).normal(size=y.shape)
            return (y * weight).sum(), (y, updates["batch_stats"])

        grads, (y, stats) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return {"y": y, "stats": stats, "params": grads[0], "x": grads[1]}

    return run(variables["params"], x)


def hub(found: dict) -> dict:
    """The same with statistics and gradients by the names of (c)."""
    grouped = to_grouped({"params": found["params"], "batch_stats": found["stats"]})
    return {**found, "params": grouped["params"], "stats": grouped["batch_stats"]}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_forms_agree(options, train):
    groups, width, stride = options
    module = GroupedBranch(groups, width, FEATURES, stride)
    variables = at_random(shapes(module))
    expected = everything(module, variables, maps(), train)
    side = 3 if stride == 2 else 5
    assert expected["y"].shape == (3, side, side, FEATURES)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), expected["stats"], variables["batch_stats"]
    )
    assert set(jax.tree.leaves(moved)) == {train}
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(expected["params"]))
    for form, carry in FORMS.values():
        carried = carry(variables, groups)
        found = everything(form(groups, width, FEATURES, stride), carried, maps(), train)
        as_grouped = hub(found)
        assert_close(expected, as_grouped)
        gradients = carry({"params": as_grouped["params"]}, groups)["params"]
        jax.tree.map(np.testing.assert_array_equal, gradients, found["params"])


def test_each_weight_has_its_place():
    """Against paths that trade one layer, the comparison above does fail."""
    groups, width = 3, 2
    variables = at_random(shapes(GroupedBranch(groups, width, FEATURES)))
    expected = GroupedBranch(groups, width, FEATURES).apply(variables, maps(), train=False)
    for layer in ("conv1", "norm1", "conv2", "norm2", "conv3"):
        carried = to_summed(variables, groups)
        one, two = carried["params"]["path1"], carried["params"]["path2"]
        one[layer], two[layer] = two[layer], one[layer]
        y = SummedBranches(groups, width, FEATURES).apply(carried, maps(), train=False)
        with pytest.raises(AssertionError):
            assert_close(expected, y, rtol=1e-2)


def test_a_path_by_hand():
    variables = at_random(shapes(GroupedBranch(12, 2, FEATURES)))
    path = to_summed(variables, 12)["params"]["path11"]  # the 11th, not the one after path1
    params = variables["params"]
    np.testing.assert_array_equal(path["conv1"]["kernel"], params["conv1"]["kernel"][..., 20:22])
    np.testing.assert_array_equal(path["conv2"]["kernel"], params["conv2"]["kernel"][..., 20:22])
    np.testing.assert_array_equal(path["conv3"]["kernel"], params["conv3"]["kernel"][:, :, 20:22])
    np.testing.assert_array_equal(path["norm2"]["bias"], params["norm2"]["bias"][20:22])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_round_trips_are_bit_identical(form, options):
    groups, width, stride = options
    module, carry = FORMS[form]
    variables = at_random(shapes(GroupedBranch(groups, width, FEATURES, stride)))
    carried = carry(variables, groups)
    own = shapes(module(groups, width, FEATURES, stride))
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), carried) == jax.tree.map(
        lambda x: (x.shape, str(x.dtype)), own
    )
    back = to_grouped(carried)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    jax.tree.map(np.testing.assert_array_equal, carry(back, groups), carried)


def test_the_maps_can_be_traced():
    variables = at_random(shapes(GroupedBranch(2, 3, FEATURES)))
    back = jit(lambda v: to_grouped(to_summed(v, 2)))(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        (5, r"groups 5: .*conv1/kernel \(1, 1, 10, 12\)"),
        (0, "groups 0"),
        (2, r"groups 2: .*conv2/kernel \(3, 3, 3, 12\)"),  # divides, but there are four
    ],
)
@pytest.mark.parametrize("carry", [to_summed, to_concatenated])
def test_groups_that_do_not_divide(carry, groups, named):
    variables = at_random(shapes(GroupedBranch(4, 3, FEATURES)))
    with pytest.raises(ValueError, match=named):
        carry({"params": variables["params"]}, groups)


# Xie 2017, table 2: about the same number of parameters at every cardinality
@pytest.mark.parametrize(
    ("groups", "width", "count"),
    [(1, 64, 69_632), (2, 40, 69_760), (4, 24, 69_888), (8, 14, 71_456), (32, 4, 70_144)],
)
@pytest.mark.parametrize("form", [SummedBranches, ConcatenatedBranches, GroupedBranch])
def test_parameters_of_the_convolutions(form, groups, width, count):
    assert groups * (256 * width + 9 * width * width + width * 256) == count  # equation 4
    params = shapes(form(groups, width, 256), channels=256)["params"]
    kernels = [x for path, x in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    assert sum(x.size for x in kernels) == count
    norms = sum(x.size for x in jax.tree.leaves(params)) - count
    assert norms == 2 * (2 * groups * width + 256)


def shortcut(variables: dict, x: jax.Array, stride: int, train: bool) -> jax.Array:
    """Of a block: a projection where it has one."""
    if "shortcut_conv" not in variables["params"]:
        return x
    conv, norm = (
        {c: tree[name] for c, tree in variables.items() if name in tree}
        for name in ("shortcut_conv", "shortcut_norm")
    )
    x = Conv(conv["params"]["kernel"].shape[-1], 1, stride).apply(conv, x)
    return BatchNorm().apply(norm, x, train=train, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("train", [True, False])
def test_a_block_of_a_network(train):
    """Two blocks of a stage, with a projection and without one; both paths of the sum are there."""
    model = create_model("resnet50", 3, groups=32, group_width=4, depths=(1, 2), width=16)
    variables = at_random(shapes(model, 16, 3))
    apply = functools.partial(
        model.apply,
        train=train,
        capture_intermediates=lambda module, _: isinstance(module, Block),
        mutable=["batch_stats", "intermediates"],
    )
    _, updates = jit(apply)(variables, maps(16, 3))
    outputs = updates["intermediates"]["backbone"]
    x = outputs["stage1"]["block1"]["__call__"][0]
    for name, stride in (("block1", 2), ("block2", 1)):
        at = "backbone", "stage2", name
        branch = branch_of(variables, *at)
        expected = outputs["stage2"][name]["__call__"][0]
        fields = 32, branch["params"]["conv2"]["kernel"].shape[-2], expected.shape[-1], stride
        own = shapes(GroupedBranch(*fields), channels=x.shape[-1])
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), branch, own)

        summed = functools.partial(SummedBranches(*fields).apply, mutable=["batch_stats"])
        y, moved = jit(functools.partial(summed, train=train))(to_summed(branch, 32), x)
        block = {c: tree["backbone"]["stage2"][name] for c, tree in variables.items()}
        assert ("shortcut_conv" in block["params"]) == (name == "block1")
        assert_close(expected, jax.nn.relu(y + shortcut(block, x, stride, train)))
        stats = branch_of({"batch_stats": updates["batch_stats"]}, *at)
        assert_close(stats, to_grouped(moved))
        x = expected


def test_a_branch_goes_back_into_its_block():
    model = create_model("resnet50", 3, groups=4, group_width=16, depths=(1,), width=16)
    variables = at_random(shapes(model, 16, 3))
    branch = to_grouped(to_concatenated(branch_of(variables, "backbone", "stage1", "block1"), 4))
    for collection, tree in variables.items():
        block = tree["backbone"]["stage1"]["block1"]
        assert set(block) - set(branch[collection]) == set(block) & {
            "shortcut_conv",
            "shortcut_norm",
        }
        back = {**block, **branch[collection]}
        jax.tree.map(np.testing.assert_array_equal, back, block)

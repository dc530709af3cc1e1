"""train/learn/paths.py: rules over the paths of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import create_model, stack_blocks
from tests.networks import shapes
from train.config import ConfigError
from train.learn.optim import decay_mask
from train.learn.paths import label_tree, paths, value_tree

PARAMS = {
    "backbone": {"stage1": {"block1": {"conv1": {"kernel": np.zeros((3, 3, 4, 4))}}}},
    "head": {"kernel": np.zeros((4, 10)), "bias": np.zeros(10)},
}


def params(name: str, **options) -> dict:
    """The shapes of a network's parameters."""
    return shapes(create_model(name, 10, **options), 32)["params"]


def test_paths_join_the_names_of_modules():
    assert paths(PARAMS) == ["backbone/stage1/block1/conv1/kernel", "head/bias", "head/kernel"]


def test_the_first_rule_that_matches_decides():
    rules = [("head/kernel", "a"), (".*/kernel", "b"), (".*", "c")]
    assert label_tree(PARAMS, rules) == {
        "backbone": {"stage1": {"block1": {"conv1": {"kernel": "b"}}}},
        "head": {"kernel": "a", "bias": "c"},
    }


def test_an_expression_has_to_match_the_whole_path():
    """`head/kernel` is no rule for `my_head/kernel`, nor `head/b` for `head/bias`."""
    tree = {"my_head": {"kernel": np.zeros(1)}, "head": {"kernel": np.zeros(1)}}
    assert label_tree(tree, [("head/kernel", 1)], default=0) == {
        "my_head": {"kernel": 0},
        "head": {"kernel": 1},
    }
    with pytest.raises(ConfigError) as caught:
        label_tree(PARAMS, [("head/b", 1)], default=0)
    assert str(caught.value) == (
        "'head/b' matches no parameter, only a part of paths such as head/bias. An expression has "
        "to match the whole path, as '.*head/b.*' does"
    )


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("haed/kernel", "'haed/kernel' matches no parameter; the nearest are head/kernel, "),
        (
            r"backbone/stage1/block1/conv\d+/kernl",
            r"'backbone/stage1/block1/conv\\d+/kernl' matches no parameter; the nearest are "
            "backbone/stage1/block1/conv1/kernel, ",
        ),
        ("(head", "'(head' is not a regular expression: missing ), unterminated subpattern"),
    ],
)
def test_an_expression_that_matches_nothing(expression, said):
    for tree_of in (label_tree, value_tree):
        with pytest.raises(ConfigError) as caught:
            tree_of(PARAMS, [(expression, 1), (".*", 0)])
        assert str(caught.value).startswith(said)


def test_a_rule_after_those_that_take_all_it_matches():
    with pytest.raises(ConfigError, match=r"^'head/\.\*': earlier rules take every parameter"):
        label_tree(PARAMS, [(".*", 1.0), ("head/.*", 10.0)])


def test_a_parameter_that_no_rule_takes():
    with pytest.raises(ConfigError) as caught:
        label_tree(PARAMS, [("head/kernel", 1)])
    assert str(caught.value) == (
        "no rule takes backbone/stage1/block1/conv1/kernel, head/bias; the rules are "
        "'head/kernel'. A last rule '.*' takes all that is left"
    )


def test_rules_for_every_network_may_match_nothing():
    tree, rules = {"bias": np.zeros(3)}, [("kernel", True)]
    assert label_tree(tree, rules, default=False, allow_unmatched=True) == {"bias": False}


# --- scan ----------------------------------------------------------------------------------------

NETWORK = "resnet110_cifar"


@pytest.fixture(scope="module")
def layouts() -> tuple[dict, dict]:
    """A network without and with `scan`: its first stage has blocks 1 to 5."""
    return tuple(params(NETWORK, depths=(5, 2, 2), scan=scan) for scan in (False, True))


def test_paths_are_the_same_with_scan(layouts):
    plain, stacked = layouts
    assert jax.tree.structure(plain) != jax.tree.structure(stacked)
    assert paths(stacked) == paths(plain)
    assert "backbone/stage1/block5/conv1/kernel" in paths(stacked)


def test_labels_are_the_same_with_scan(layouts):
    plain, stacked = layouts
    rules = [("backbone/stage1/block1/.*", "first"), (".*/stage1/.*", "rest"), (".*", "other")]
    labels = label_tree(stacked, rules)
    assert labels["backbone"]["stage1"]["block1"]["conv1"]["kernel"] == "first"
    assert labels["backbone"]["stage1"]["blocks"]["conv1"]["kernel"] == "rest"
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), plain)
    for rules in ([("head/.*", 3.0), (".*", 0.5)], [(".*/block[12]/.*", 0.0), (".*", 1.0)]):
        product = jax.tree.map(np.multiply, ones, value_tree(plain, rules))
        scanned = jax.tree.map(np.multiply, stack_blocks(ones), value_tree(stacked, rules))
        jax.tree.map(np.testing.assert_array_equal, scanned, stack_blocks(product))


def test_labels_cannot_divide_stacked_blocks(layouts):
    _, stacked = layouts
    with pytest.raises(ConfigError) as caught:
        label_tree(stacked, [(".*/stage1/block2/conv1/.*", "frozen"), (".*", "trained")])
    assert str(caught.value) == (
        "backbone/stage1/blocks/conv1/kernel: the rules give the blocks of this stack different "
        "labels (frozen, trained, trained, trained); with --scan False every block has its own "
        "arrays"
    )


# --- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scan"),
    [
        ("resnet18", False),
        ("seresnet50", True),
        ("ecaresnet26t", False),
        ("resnetv2_50", False),
        ("resnet50_gn", True),
        ("lenet5", False),
        (NETWORK, False),
        (NETWORK, True),
    ],
)
def test_the_decay_mask_is_that_of_the_last_key(name, scan):
    """Kernels decay, whatever the network: the rule before there was a language."""
    tree = params(name, scan=scan)
    expected = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)
    assert decay_mask(tree) == expected
    assert 0 < sum(jax.tree.leaves(expected)) < len(jax.tree.leaves(expected))


def test_frozen_parameters_in_three_lines():
    """What freezing will be: labels for `optax.multi_transform`."""
    tree = jax.tree.map(jnp.asarray, PARAMS)
    labels = label_tree(tree, [("head/.*", "train"), (".*", "freeze")])
    tx = optax.multi_transform({"train": optax.sgd(1.0), "freeze": optax.set_to_zero()}, labels)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, tree), tx.init(tree), tree)
    assert [float(x.max()) for x in jax.tree.leaves(updates)] == [0.0, -1.0, -1.0]

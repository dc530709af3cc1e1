"""One language for naming parameters: regular expressions over their paths.

The path of a parameter joins the names of its modules: "backbone/stage1/block1/conv1/kernel",
"head/bias". An expression has to match the whole path (`re.fullmatch`), and of several rules the
first that matches decides. A network with `scan` stacks equal blocks into one array
(`resnet_jax.scan`); each block keeps the path that it has without `scan`, so the same rules mean
the same in both layouts.

Misspelled rules do not pass silently. An expression that matches nothing is an error, and so is a
parameter that no rule takes. The design follows big_vision's `optax.py`.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from resnet_jax.scan import STACKED
from train.config import ConfigError

T = TypeVar("T")
Rules = Sequence[tuple[str, T]]
"""(expression, label) pairs; the first expression that matches a path gives its label."""

Keys = tuple[Any, ...]
"""The keys of a leaf, as JAX gives them."""

_REQUIRED: Any = object()


def paths(params: Any) -> list[str]:
    """The path of every parameter, the same list for a network with and without `scan`.

    >>> paths({"head": {"kernel": np.zeros((8, 10)), "bias": np.zeros(10)}})
    ['head/bias', 'head/kernel']
    """
    leaves = jax.tree.leaves_with_path(params)
    return sorted(path for keys, leaf in leaves for path in _block_paths(keys, leaf))


def label_tree(
    params: Any, rules: Rules[T], *, default: T = _REQUIRED, allow_unmatched: bool = False
) -> Any:
    """The label of each parameter, as a tree with the structure of `params`.

    `optax.multi_transform` takes a tree of strings, `optax.masked` one of booleans.

    Args:
      params: arrays, or their shapes (`jax.eval_shape`).
      rules: the first match decides.
      default: label of the parameters that no rule takes; without it, they are an error.
      allow_unmatched: accept an expression that matches nothing, for rules that are written for
        every network.

    Raises:
      ConfigError: an expression is invalid, matches nothing, or comes after rules that take all it
        matches; no rule takes a parameter; or the rules divide blocks that `scan` stacks into one
        array (`value_tree` can).

    >>> params = {"head": {"kernel": np.zeros((8, 10)), "bias": np.zeros(10)}}
    >>> label_tree(params, [("head/kernel", "decay"), (".*", "no decay")])
    {'head': {'bias': 'no decay', 'kernel': 'decay'}}
    """

    def one(keys: Keys, labels: list[T]) -> T:
        if any(label != labels[0] for label in labels):
            raise ConfigError(
                f"{_join(keys)}: the rules give the blocks of this stack different labels "
                f"({', '.join(str(label) for label in labels)}); with --scan False every block has "
                "its own arrays"
            )
        return labels[0]

    return _map_labels(one, params, rules, default, allow_unmatched)


def value_tree(
    params: Any, rules: Rules[float], *, default: float = _REQUIRED, allow_unmatched: bool = False
) -> Any:
    """A number for each parameter, which broadcasts against it: learning-rate factors, 0/1 masks.

    As `label_tree`, but the rules may divide stacked blocks: the leaf is then float32
    [blocks, 1, ...], and else a float.

    >>> params = {"head": {"kernel": np.zeros((8, 10)), "bias": np.zeros(10)}}
    >>> value_tree(params, [("head/kernel", 0.1)], default=1.0)
    {'head': {'bias': 1.0, 'kernel': 0.1}}
    """
    ranks = {_join(keys): np.ndim(leaf) for keys, leaf in jax.tree.leaves_with_path(params)}

    def value(keys: Keys, values: list[float]) -> float | np.ndarray:
        if all(each == values[0] for each in values):
            return values[0]
        ones = (1,) * (ranks[_join(keys)] - 1)
        return np.asarray(values, np.float32).reshape(-1, *ones)

    return _map_labels(value, params, rules, default, allow_unmatched)


def _map_labels(
    make: Callable[[Keys, list[T]], Any],
    params: Any,
    rules: Rules[T],
    default: T,
    allow_unmatched: bool,
) -> Any:
    """`make(keys, labels)` for each leaf, with the label of each of its blocks."""
    compiled = [_compile(expression) for expression, _ in rules]
    leaves, treedef = jax.tree.flatten_with_path(params)
    blocks = [(keys, _block_paths(keys, leaf)) for keys, leaf in leaves]
    known = sorted(path for _, each in blocks for path in each)
    chosen = {path: _first_match(compiled, path) for path in known}
    for i, (expression, _) in enumerate(rules):
        if i not in chosen.values() and not allow_unmatched:
            raise ConfigError(_unused(expression, compiled[i], known))
    free = [path for path, i in chosen.items() if i is None]
    if free and default is _REQUIRED:
        more = f" and {len(free) - 3} more" if len(free) > 3 else ""
        raise ConfigError(
            f"no rule takes {', '.join(free[:3])}{more}; the rules are "
            f"{', '.join(repr(expression) for expression, _ in rules)}. A last rule '.*' takes "
            "all that is left"
        )

    def label(path: str) -> T:
        i = chosen[path]
        return default if i is None else rules[i][1]

    made = [make(keys, [label(path) for path in each]) for keys, each in blocks]
    return jax.tree.unflatten(treedef, made)


def _first_match(compiled: Sequence[re.Pattern[str]], path: str) -> int | None:
    return next((i for i, each in enumerate(compiled) if each.fullmatch(path)), None)


def _compile(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{expression!r} is not a regular expression: {error}") from None


def _unused(expression: str, compiled: re.Pattern[str], known: Sequence[str]) -> str:
    """Why a rule labels nothing, and what was probably meant."""
    if any(compiled.fullmatch(path) for path in known):
        return (
            f"{expression!r}: earlier rules take every parameter that it matches; the first match "
            "decides, so put it before them"
        )
    part = next((path for path in known if compiled.search(path)), None)
    if part:
        whole = f".*{expression.removeprefix('.*').removesuffix('.*')}.*"
        return (
            f"{expression!r} matches no parameter, only a part of paths such as {part}. An "
            f"expression has to match the whole path, as {whole!r} does"
        )
    text = re.sub(r"\.\*|[\\^$*+?()\[\]{}|]", "", expression)
    near = difflib.get_close_matches(text, known, n=3, cutoff=0)
    return f"{expression!r} matches no parameter; the nearest are {', '.join(near)}"


def _join(keys: Keys) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _block_paths(keys: Keys, leaf: Any) -> list[str]:
    """The paths that a leaf stands for: one, or that of each block in a stack (from block2)."""
    names = _join(keys).split("/")
    if STACKED not in names:
        return ["/".join(names)]
    at = names.index(STACKED)
    count = leaf.shape[0]
    return ["/".join([*names[:at], f"block{i}", *names[at + 1 :]]) for i in range(2, count + 2)]

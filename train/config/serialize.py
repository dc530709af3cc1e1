"""Conversion of a `RunConfig` to JSON and back, and the differences between two configs."""

import dataclasses
import difflib
import json
import typing
from collections.abc import Collection, Mapping
from typing import Any

from train.config import ConfigError, RunConfig

# Options that do not change the results of a run. They may differ when a run is resumed.
_FREE = (
    "compilation_cache",
    "data.dir",
    "data.on_bad_image",
    "data.max_pixels",
    "data.max_image_bytes",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.resident",
    "data.retries",
    "data.stall_seconds",
    "mesh",
    "skip_nonfinite",
)

# Fields with the version of a rule -> the value for a config.json that does not have the field.
_VERSIONS = {
    "data.held_out": "by_place",
    "data.image_key": None,
    "data.label_key": None,
    "data.listing": 1,
    "data.order": 1,
}


def to_json(config: RunConfig) -> dict[str, Any]:
    """The config as plain nested dicts; fields of the spec that are not set are omitted."""
    tree = json.loads(json.dumps(dataclasses.asdict(config)))
    tree["model"] = {k: v for k, v in tree["model"].items() if v is not None}
    return tree


def from_json(tree: dict[str, Any]) -> RunConfig:
    """The inverse of `to_json`.

    Raises:
      ConfigError: an unknown field (the message lists similar ones), or an invalid value.
    """
    return _build(RunConfig, tree, "")


def with_versions(tree: dict[str, Any]) -> dict[str, Any]:
    """The content of a config.json; missing versions of rules get their first value."""
    tree = {**tree, "data": dict(tree.get("data", {}))}
    if "held_out" in tree["data"]:  # both came together, and data.listing was not yet written
        tree["data"].setdefault("listing", 2)
    for key, old in _VERSIONS.items():
        section, _, name = key.partition(".")
        tree[section].setdefault(name, old)
    return tree


def keep_versions(began: RunConfig, config: RunConfig, given: Collection[str] = ()) -> RunConfig:
    """`config` with the versions of rules of the run `began`, where `config` has the default.

    Options in `given` keep their value, even if it is the default.
    """
    a, b, default = (flatten(to_json(c)) for c in (began, config, RunConfig()))
    kept = [key for key in _VERSIONS if b[key] == default[key] and key not in given]
    return with_options(config, {key: a[key] for key in kept})


def with_options(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with other values for some options: {"optim.lr": 0.2, "seed": 1}.

    Raises:
      ConfigError: an unknown option, or an invalid value.
    """
    tree = to_json(config)
    for key, value in values.items():
        *sections, name = key.split(".")
        part = tree
        for section in sections:
            part = part[section]
        part[name] = value
    return from_json(tree)


def unknown_fields(tree: dict[str, Any]) -> dict[str, Any]:
    """Fields of a config in JSON that are no options of this version: {"optim.name": value}."""
    return _unknown(RunConfig, tree, "")


def _unknown(cls: Any, tree: dict[str, Any], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    found = {where + key: value for key, value in tree.items() if key not in hints}
    for key in tree.keys() & hints.keys():
        if dataclasses.is_dataclass(hints[key]) and isinstance(tree[key], dict):
            found |= _unknown(hints[key], tree[key], f"{where}{key}.")
    return found


def _build(cls: Any, tree: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=3, cutoff=0.4) or sorted(hints)
            raise ConfigError(f"unknown field {where + key!r}: did you mean {', '.join(near)}?")
    values = {}
    for key, value in tree.items():
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}{key} {value!r}: needs an object of options")
            value = _build(hints[key], value, f"{where}{key}.")
        values[key] = value
    return cls(**values)


def flatten(tree: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested dicts as {"optim.lr": 0.1, ...}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flatten(value, f"{where}{key}.") if isinstance(value, dict) else None
        flat.update({where + key: value} if inner is None else inner)
    return flat


def _is_free(key: str) -> bool:
    """Whether an option, or its whole group, may differ when a run is resumed."""
    return key in _FREE or key.split(".")[0] in _FREE


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Options that change the results of a run, one line for each: "optim.lr: 0.1 -> 0.2"."""
    a, b = flatten(to_json(old)), flatten(to_json(new))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key) and not _is_free(key)]
    return [f"{key}: {a.get(key)!r} -> {b.get(key)!r}" for key in keys]

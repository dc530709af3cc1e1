"""train/config.py: the round trip, what is refused and how it is said, durations, differences."""

import copy
import dataclasses
import json
import math
import os
import random
import re
import subprocess
import sys
import typing
from fractions import Fraction
from pathlib import Path

import pytest

from train.config import (
    AugmentConfig,
    CheckpointConfig,
    ConfigError,
    DataConfig,
    EvalConfig,
    InitConfig,
    MeshConfig,
    MixConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    to_steps,
)
from train.config_json import differences, flatten, from_json, to_json
from train.recipes import all_recipes, get_recipe

ROOT = Path(__file__).parents[1]
RECIPES = list(all_recipes())

# Every field: a value that is not its default, and one more that is neither.
EVERY = {
    "recipe": ("mine", "yours"),
    "duration": ("7ep", "7st"),
    "batch_size": (48, 96),
    "seed": (3, 4),
    "precision": ("fp32", "bf16"),
    "ema_decay": (0.5, 0.25),
    "norm_group_size": (16, "device"),
    "scan": (True, False),
    "skip_nonfinite": (3, 4),
    "log_every": ("3st", "4st"),
    "compilation_cache": ("/cache", ""),
    "model.name": ("resnet34", "resnet18"),
    "model.depths": ([1, 2], [1, 2, 3]),
    "model.block": ("bottleneck", "basic"),
    "model.stage_blocks": (["bottleneck", "bottleneck"], []),
    "model.width": (32, 16),
    "model.stage_widths": ([32, 48], []),
    "model.groups": (1, 2),
    "model.group_width": (64, 128),
    "model.reduce_first": (2, 1),
    "model.stem": ("deep", "3x3"),
    "model.stem_width": (24, 32),
    "model.stem_pool": ("conv", "none"),
    "model.stride_at": ("1x1", "3x3"),
    "model.shortcut": ("C", "B"),
    "model.shortcut_kernel": (3, 5),
    "model.avg_down": (True, False),
    "model.anti_alias": ("blur", "avg"),
    "model.preact": (True, False),
    "model.activation": ("gelu", "relu"),
    "model.attention": ("se", "eca"),
    "model.se_ratio": (0.5, 0.25),
    "model.norm": ("group", "batch"),
    "model.norm_groups": (4, 2),
    "model.weight_standardization": (True, False),
    "model.output_stride": (16, 8),
    "model.zero_gamma": (False, True),
    "model.kernel_init": ("xavier_uniform", "zeros"),
    "model.norm_momentum": (0.5, 0.25),
    "model.norm_epsilon": (0.5, 0.25),
    "model.drop_path": (0.5, 0.25),
    "model.drop_block": (0.5, 0.25),
    "model.drop_block_size": (3, 5),
    "model.block_dropout": (0.5, 0.25),
    "model.dropout": (0.5, 0.25),
    "model.drop_connect": (0.5, 0.25),
    "init.weights": ("a.npz", "resnet50.a1_in1k"),
    "init.head": ("keep", "reset"),
    "data.name": ("npz", "folder"),
    "data.dir": ("/data", "/elsewhere"),
    "data.train_split": ("a", "b"),
    "data.eval_split": ("a", "b"),
    "data.image_key": ("image", "photo"),
    "data.label_key": ("label", "kind"),
    "data.remap_labels": (True, False),
    "data.eval_fraction": (0.5, 0.25),
    "data.split_seed": (3, 4),
    "data.held_out": ("by_place", "by_name"),
    "data.order": (1, 2),
    "data.image_size": (3, 4),
    "data.mean": ([0.5], [0.5, 0.25, 0.75]),
    "data.std": ([0.5], [0.5, 0.25, 0.75]),
    "data.on_bad_image": ("skip", "error"),
    "data.max_pixels": (3, 4),
    "data.max_image_bytes": (3, 4),
    "data.threads": (3, 0),
    "data.workers": (3, 4),
    "data.prefetch": (3, 4),
    "data.decoder": ("dali", "cpu"),
    "data.resident": ("on", "off"),
    "data.retries": (3, 0),
    "data.stall_seconds": (3.0, 0.5),
    "data.examples": (3, 4),
    "data.classes": (3, 4),
    "augment.crop": ("pad", "none"),
    "augment.area": ([0.5, 0.75], [0.25, 0.75]),
    "augment.aspect": ([0.5, 0.75], [0.25, 0.75]),
    "augment.pad": (3, 0),
    "augment.flip": (False, True),
    "mix.label_smoothing": (0.5, 0.25),
    "optim.name": ("adamw", "sgd"),
    "optim.lr": (0.5, 0.25),
    "optim.lr_batch": (3, 0),
    "optim.momentum": (0.5, 0.25),
    "optim.nesterov": (True, False),
    "optim.beta2": (0.5, 0.25),
    "optim.epsilon": (0.5, 0.25),
    "optim.weight_decay": (0.5, 0.25),
    "optim.decay": ("decoupled", "l2"),
    "optim.decay_mask": ("all", "kernels"),
    "optim.clip": (0.5, 0.25),
    "optim.schedule": ("step", "constant"),
    "optim.warmup": ("5%", "5ep"),
    "optim.milestones": (["1ep", "20%"], ["1ep"]),
    "optim.gamma": (0.5, 0.25),
    "eval.every": ("3st", "4st"),
    "eval.batch_size": (3, 4),
    "eval.crop_fraction": (0.5, 0.25),
    "eval.interpolation": ("bicubic", "bilinear"),
    "checkpoint.every": ("3st", "4st"),
    "checkpoint.keep": (3, 4),
    "checkpoint.best": ("loss", "top1"),
    "mesh.coordinator": ("host:1", "host:2"),
    "mesh.processes": (4, 5),
    "mesh.process_id": (2, 3),
    "mesh.fsdp": (2, 4),
    "mesh.fsdp_params": (True, False),
}

# What may change when a run is resumed: where it reads and how fast.
FREE = {
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
    "skip_nonfinite",
    "mesh.coordinator",
    "mesh.processes",
    "mesh.process_id",
    "mesh.fsdp",
    "mesh.fsdp_params",
}


def nest(flat: dict) -> dict:
    """{"optim.lr": 0.1} -> {"optim": {"lr": 0.1}}."""
    tree: dict = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = tree
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = copy.deepcopy(value)
    return tree


def every(changes: dict | None = None) -> dict:
    return nest({**{key: value for key, (value, _) in EVERY.items()}, **(changes or {})})


def refusal(make, *args, **kwargs) -> str:
    """The message of the ConfigError that `make` raises; any other exception is a failure."""
    with pytest.raises(ConfigError) as error:
        make(*args, **kwargs)
    return str(error.value)


# --- to_json, from_json --------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_the_round_trip(name):
    config = get_recipe(name)
    tree = json.loads(json.dumps(to_json(config)))
    assert from_json(tree) == config
    assert to_json(from_json(tree)) == tree
    # what the spec says is not repeated
    assert tree["model"] == {"name": config.model.name, **config.model.changes}


def test_spec_overrides_survive_the_round_trip():
    model = ModelConfig(
        name="resnet50",
        depths=(1, 2),
        stem="deep",
        avg_down=True,
        zero_gamma=False,  # falsy, and yet set
        drop_path=0.0,
    )
    config = dataclasses.replace(get_recipe("digits"), model=model)
    tree = json.loads(json.dumps(to_json(config)))
    assert tree["model"] == {
        "name": "resnet50",
        "depths": [1, 2],
        "stem": "deep",
        "avg_down": True,
        "zero_gamma": False,
        "drop_path": 0.0,
    }
    back = from_json(tree)
    assert back == config and back.model.depths == (1, 2)
    assert back.model.changes == model.changes


def test_every_field_survives_the_round_trip():
    # a field that this file does not list would go untested
    tree = flatten(to_json(RunConfig()))
    spec = [key for key in EVERY if key.startswith("model.") and key != "model.name"]
    no_mesh = [key for key in EVERY if key not in spec]
    assert set(no_mesh) == set(tree)
    assert {key.removeprefix("model.") for key in spec} | {"name"} == {
        field.name for field in dataclasses.fields(ModelConfig)
    }
    assert [key for key in no_mesh if EVERY[key][0] == tree[key]] == []  # none is the default
    assert to_json(from_json(every())) == every()


def test_missing_fields_are_defaults():
    assert from_json({}) == RunConfig()
    assert from_json({"optim": {"lr": 1}}) == RunConfig(optim=OptimConfig(lr=1.0))


@pytest.mark.parametrize(
    "tree, named, near",
    [
        ({"batchsize": 1}, "'batchsize'", "batch_size"),
        ({"optim": {"weightdecay": 1}}, "'optim.weightdecay'", "weight_decay"),
        ({"optim": {"momentun": 1}}, "'optim.momentun'", "momentum"),
        ({"model": {"depth": [1]}}, "'model.depth'", "depths"),
        ({"data": {"zzzz": 1}}, "'data.zzzz'", "on_bad_image"),  # nothing near: all of them
        ({"zzzz": 1}, "'zzzz'", "duration"),
        ({"lr": 1}, "'lr'", ""),
    ],
)
def test_unknown_field_is_named_with_near_ones(tree, named, near):
    message = refusal(from_json, tree)
    assert named in message
    assert near in re.split(r"[ ,?]+", message) or not near


def test_nearest_field_comes_first():
    assert "did you mean batch_size" in refusal(from_json, {"batch_sise": 1})


@pytest.mark.parametrize(
    "field, value, needs",
    [
        ("batch_size", 1.5, "int"),
        ("batch_size", True, "int"),
        ("batch_size", "1", "int"),
        ("batch_size", None, "int"),
        ("batch_size", [1], "int"),
        ("seed", {"a": 1}, "int"),
        ("duration", 90, "str"),
        ("duration", ["90ep"], "str"),
        ("norm_group_size", 1.5, "int"),
        ("ema_decay", "0.9", "float"),
        ("ema_decay", True, "float"),
        ("compilation_cache", 1, "str"),
        ("data.dir", 1, "str"),
        ("data.mean", 0.5, "tuple"),
        ("data.mean", ["0.5"], "float"),
        ("data.mean", [True, 0.5, 0.5], "float"),
        ("augment.area", [0.1, 0.2, 0.3], "float"),
        ("augment.area", ["a", "b"], "float"),
        ("augment.flip", 1, "bool"),
        ("augment.pad", 1.0, "int"),
        ("optim.milestones", "50%", "tuple"),
        ("optim.milestones", [50], "str"),
        ("model.width", "64", "int"),
        ("model.depths", 3, "tuple"),
        ("model.depths", ["3"], "int"),
        ("model.depths", [1.5], "int"),
    ],
)
def test_value_of_a_wrong_type_is_refused(field, value, needs):
    message = refusal(from_json, nest({field: value}))
    assert field in message and needs in message
    assert repr(value) in message or repr(tuple(value)) in message


@pytest.mark.parametrize("value", [3, "digits", None, ["digits"]])
def test_section_that_is_no_section_is_refused(value):
    message = refusal(from_json, {"data": value})
    assert re.match(r"data\b(?!\.)", message) and repr(value) in message


def literals() -> list:
    """(section, class, field, choices) of every field with a fixed set of choices."""
    found = []
    sections = {"": RunConfig, "model.": ModelConfig, "data.": DataConfig, "mix.": MixConfig}
    sections |= {"augment.": AugmentConfig, "optim.": OptimConfig, "eval.": EvalConfig}
    sections |= {"checkpoint.": CheckpointConfig, "mesh.": MeshConfig, "init.": InitConfig}
    for section, cls in sections.items():
        for name, kind in typing.get_type_hints(cls).items():
            options = [kind, *typing.get_args(kind)]
            choices = [
                typing.get_args(k) for k in options if typing.get_origin(k) is typing.Literal
            ]
            if choices and int not in options:
                found.append(pytest.param(cls, section, name, choices[0], id=section + name))
    return found


def test_the_fields_with_choices_are_found():
    assert [param.id for param in literals()] == [
        "precision",
        *("model." + f for f in ("block", "stem", "stem_pool", "stride_at", "shortcut")),
        *("model." + f for f in ("anti_alias", "activation", "attention", "norm")),
        *("model." + f for f in ("output_stride", "kernel_init")),
        *("data.held_out", "data.order", "data.on_bad_image", "data.decoder", "data.resident"),
        "augment.crop",
        *("optim." + f for f in ("name", "decay", "decay_mask", "schedule")),
        "eval.interpolation",
        "checkpoint.best",
        "init.head",
    ]


@pytest.mark.parametrize("cls, section, field, choices", literals())
def test_wrong_choice_is_refused_and_the_choices_listed(cls, section, field, choices):
    message = refusal(from_json, nest({section + field: "wrong"}))
    assert section + field in message and "'wrong'" in message
    assert [choice for choice in choices if repr(choice) not in message] == []


@pytest.mark.parametrize("cls, section, field, choices", literals())
def test_wrong_choice_is_refused_in_python_too(cls, section, field, choices):
    message = refusal(cls, **{field: "wrong"})
    assert field in message and "'wrong'" in message
    assert [choice for choice in choices if repr(choice) not in message] == []


@pytest.mark.parametrize("change", [{"depths": ("a",)}, {"width": "a"}, {"drop_path": None}])
def test_model_option_of_a_wrong_type_in_python(change):
    name, value = next(iter(change.items()))
    if value is None:  # not set
        assert ModelConfig(**change).changes == {}
    else:
        assert name in refusal(ModelConfig, **change)


def test_unknown_model_is_named_with_near_ones():
    message = refusal(ModelConfig, name="resnet51")
    assert "'resnet51'" in message and "resnet50" in message and "resnet-jax models" in message


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"name": "resnet18", "stride_at": "1x1"}, ["stride_at", "'1x1'", "'3x3'"]),
        ({"name": "resnet18", "groups": 32}, ["groups", "32", "bottleneck"]),
        ({"shortcut": "A", "avg_down": True}, ["avg_down", "'A'", "'B'"]),
        ({"depths": (3, 0)}, ["depths", "(3, 0)"]),
        ({"width": 0}, ["width", "0", "at least 1"]),
        ({"drop_path": 1.0}, ["drop_path", "1.0", "[0, 1)"]),
        ({"norm_epsilon": 0.0}, ["norm_epsilon", "0.0", "positive"]),
    ],
    ids=str,
)
def test_spec_that_cannot_be_built_is_refused(changes, parts):
    message = refusal(ModelConfig, **changes)
    assert message.startswith("model: ")
    assert [part for part in parts if part not in message] == []


# --- rules ---------------------------------------------------------------------------------------

SHARE = "'90ep', '500st', '5%'"
RULES = [  # field, values refused, values at the edge of what is allowed, part of the message
    ("duration", ["", "90", "ep", "-1ep", "1 ep", "1e3st", "5%"], ["1.5ep", "1st"], "'500st'"),
    ("log_every", ["", "5%", "x"], ["1ep", "50st"], "'90ep', '500st'"),
    ("batch_size", [0, -8], [1], "must be at least 1"),
    ("seed", [-1, 2**32], [0, 2**32 - 1], "0..2**32-1"),
    ("ema_decay", [-0.1, 1.0], [0.0, 0.9999], "[0, 1)"),
    (
        "norm_group_size",
        [0, -1, 100, 512],
        [1, 64, 256, None, "device"],
        "choose an integer that divides batch_size 256, device (",
    ),
    ("data.image_size", [0], [1], "must be at least 1"),
    ("data.threads", [-1], [0], "must be at least 0"),
    ("data.workers", [-1], [0], "must be at least 0"),
    ("data.prefetch", [0], [1], "must be at least 1"),
    ("data.max_pixels", [0], [1], "must be at least 1"),
    ("data.max_image_bytes", [0], [1], "must be at least 1"),
    ("data.examples", [0], [1], "must be at least 1"),
    ("data.classes", [0], [1], "must be at least 1"),
    ("data.eval_fraction", [0.0, 1.0, -0.5, 1.5], [0.001, 0.999], "between 0 and 1"),
    ("data.mean", [[], [0.5, 0.5], [0.5] * 4], [[0.5], [0.5] * 3], "one for each of RGB"),
    ("data.std", [[], [0.5, 0.5]], [[0.5], [0.5] * 3], "one for each of RGB"),
    ("data.std", [[0.0], [0.5, 0.5, -0.5]], [[1e-9]], "must be positive"),
    ("augment.area", [[0.0, 1.0], [0.5, 0.4], [0.5, 1.1]], [[1.0, 1.0]], "0 < low <= high <= 1"),
    ("augment.aspect", [[0.0, 1.0], [2.0, 1.0]], [[1.0, 1.0], [2.0, 9.0]], "0 < low <= high"),
    ("augment.pad", [-1], [0], "must be at least 0"),
    ("mix.label_smoothing", [-0.1, 1.0], [0.0, 0.99], "[0, 1)"),
    ("optim.lr", [0.0, -0.1, math.nan], [1e-9], "must be positive"),
    ("optim.lr_batch", [-1], [0], "must be at least 0"),
    ("optim.momentum", [-0.1, 1.0], [0.0, 0.99], "[0, 1)"),
    ("optim.beta2", [-0.1, 1.0], [0.0, 0.999], "[0, 1)"),
    ("optim.epsilon", [-1e-9, math.nan], [0.0], "must be at least 0"),
    ("optim.weight_decay", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("optim.clip", [-1.0, math.nan], [0.0], "must be at least 0"),
    ("optim.gamma", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("optim.warmup", ["", "5", "5 %", "-5%"], ["0st", "5%", "5ep"], SHARE),
    ("eval.every", ["", "5%", "often"], ["1ep", "100st"], "'90ep', '500st'"),
    ("eval.batch_size", [0], [1], "must be at least 1"),
    ("init.weights", [""], ["missing.pth", None], "needs a file, or NAME.TAG"),
    ("eval.crop_fraction", [0.0, 1.01], [1.0, 0.01], "(0, 1]"),
    ("checkpoint.every", ["5%", "x"], ["", "1ep"], "'90ep', '500st' or '' (off)"),
    ("checkpoint.keep", [0], [1], "must be at least 1"),
]


@pytest.mark.parametrize(
    "field, value, rule",
    [(field, value, rule) for field, bad, _, rule in RULES for value in bad],
    ids=str,
)
def test_value_against_a_rule_is_refused(field, value, rule):
    message = refusal(from_json, nest({field: value}))
    shown = repr(tuple(value) if isinstance(value, list) else value)
    assert message.startswith(f"{field} {shown}")
    assert rule in message


@pytest.mark.parametrize(
    "field, value", [(field, value) for field, _, good, _ in RULES for value in good], ids=str
)
def test_value_at_the_edge_of_a_rule_is_allowed(field, value):
    assert flatten(to_json(from_json(nest({field: value}))))[field] == value


@pytest.mark.parametrize("bad", ["50", "", "half"])
def test_milestones_are_durations(bad):
    message = refusal(OptimConfig, milestones=("50%", bad))
    assert message.startswith(f"optim.milestones {bad!r}") and SHARE in message


@pytest.mark.parametrize(
    "given, missing",
    [
        ({"coordinator": "h:1"}, ["mesh.processes", "mesh.process_id"]),
        ({"processes": 2, "process_id": 0}, ["mesh.coordinator"]),
        ({"coordinator": "h:1", "process_id": 0}, ["mesh.processes"]),
    ],
    ids=str,
)
def test_mesh_fields_go_together(given, missing):
    message = refusal(MeshConfig, **given)
    named = message.partition(" not set")[0].split(", ")
    assert named == missing


@pytest.mark.parametrize("process_id", [-1, 2, 3])
def test_process_id_is_one_of_the_processes(process_id):
    message = refusal(MeshConfig, coordinator="h:1", processes=2, process_id=process_id)
    assert message == f"mesh.process_id {process_id}: must be in 0..1"


def test_all_process_ids_are_allowed():
    ids = [MeshConfig("h:1", 2, process_id).process_id for process_id in (0, 1)]
    assert ids == [0, 1]


# --- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duration, examples, batch_size, total, steps",
    [
        ("90ep", 1281167, 1024, None, 112603),  # 112602.6
        ("1ep", 1438, 64, None, 23),  # 22.47
        ("40ep", 1438, 64, None, 899),  # 898.75: rounded once, not 40 times
        ("1ep", 128, 128, None, 1),
        ("1ep", 129, 128, None, 2),
        ("0.5ep", 50000, 128, None, 196),  # 195.3
        ("64000st", 50000, 128, None, 64000),
        ("2.5st", 1, 1, None, 3),
        ("0st", 1, 1, None, 0),
        ("0ep", 1000, 10, None, 0),
        ("50%", 1, 1, 64000, 32000),
        ("75%", 1, 1, 64000, 48000),
        ("5%", 1, 1, 899, 45),  # 44.95
        ("12.5%", 1, 1, 8, 1),
        ("100%", 1, 1, 7, 7),
        ("0%", 1, 1, 7, 0),
        ("50%", 1, 1, 0, 0),
        ("0.1ep", 30, 1, None, 3),  # 3.0000000000000004 in floats
        ("7%", 1, 1, 100, 7),  # 7.000000000000001
        ("1.1ep", 10, 1, None, 11),  # 11.000000000000002
        ("55%", 1, 1, 100, 55),  # 55.00000000000001
    ],
)
def test_steps_of_a_duration(duration, examples, batch_size, total, steps):
    found = to_steps(duration, examples=examples, batch_size=batch_size, total=total)
    assert found == steps and type(found) is int


def test_steps_are_those_of_exact_arithmetic():
    draw = random.Random(0)
    wrong = []
    for _ in range(3000):
        number = draw.choice(["{:.0f}", "{:.1f}", "{:.2f}"]).format(draw.uniform(0, 100))
        examples, batch_size = draw.randint(1, 50_000), draw.choice([1, 7, 64, 100, 256])
        total = draw.randint(1, 1_000_000)
        sizes = {"examples": examples, "batch_size": batch_size, "total": total}
        exact = {
            "ep": Fraction(number) * examples / batch_size,
            "st": Fraction(number),
            "%": Fraction(number) / 100 * total,
        }
        for unit, steps in exact.items():
            if to_steps(number + unit, **sizes) != math.ceil(steps):
                wrong.append((number + unit, sizes))
    assert wrong == []


@pytest.mark.parametrize(
    "duration", ["", "90", "ep", "90 ep", "-1ep", "1e3st", "nanep", "90epochs"]
)
@pytest.mark.parametrize("total", [None, 100])
def test_what_is_no_duration_is_refused(duration, total):
    message = refusal(to_steps, duration, examples=10, batch_size=1, total=total)
    assert repr(duration) in message and "'90ep'" in message and "'500st'" in message
    assert ("%" in message) == (total is not None)


def test_share_of_an_unknown_total_is_refused():
    message = refusal(to_steps, "5%", examples=10, batch_size=1)
    assert "'5%' is not a duration" in message and "'90ep', '500st'" in message


# --- differences ---------------------------------------------------------------------------------


def test_equal_configs_do_not_differ():
    for name in RECIPES:
        assert differences(get_recipe(name), get_recipe(name)) == []


@pytest.mark.parametrize("field", EVERY)
def test_a_changed_field_is_named_unless_it_is_free(field):
    value, other = EVERY[field]
    # the neighbours that let every option of this field be built
    base = {"model.block": "bottleneck", "model.shortcut": "C"}
    if field == "model.block":  # a basic block has no 1x1
        base = {"model.stride_at": "3x3"}
    if field == "model.depths":
        base |= {"model.stage_blocks": [], "model.stage_widths": []}
    old, new = (from_json(every({**base, field: v})) for v in (value, other))
    expected = [] if field in FREE else [f"{field}: {value!r} -> {other!r}"]
    assert differences(old, new) == expected


def test_an_option_that_is_set_or_taken_back_is_named():
    plain = RunConfig()
    wide = dataclasses.replace(plain, model=ModelConfig(width=32))
    assert differences(plain, wide) == ["model.width: None -> 32"]
    assert differences(wide, plain) == ["model.width: 32 -> None"]


def test_all_that_differs_is_named():
    new = dataclasses.replace(
        get_recipe("digits"), seed=1, optim=dataclasses.replace(get_recipe("digits").optim, lr=0.5)
    )
    assert differences(get_recipe("digits"), new) == ["seed: 0 -> 1", "optim.lr: 0.1 -> 0.5"]


# --- what is imported ----------------------------------------------------------------------------

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "cv2", "matplotlib", "sklearn"}
HEAVY |= {"tensorflow", "tensorflow_datasets", "tensorboardX"}


def python(*args: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Runs `python ARGS`; also returns the top-level packages it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    names = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    return done, {name.partition(".")[0] for name in names}


def test_recipes_load_no_jax():
    code = "import train.config, train.recipes; train.recipes.all_recipes()"
    done, imported = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "train" in imported and imported & HEAVY == set()


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["train", "--help-all"]])
def test_help_loads_no_jax(args):
    """That is what would make it slow; seconds depend on the machine."""
    done, imported = python("-m", "train", *args)
    assert done.returncode == 0
    assert imported & HEAVY == set()
    assert "usage: resnet-jax" in done.stdout
    if "train" in args:
        assert "--optim.lr" in done.stdout and "--workdir" in done.stdout
    if "--help-all" in args:
        assert "Adam's second-moment decay" in done.stdout  # from the docstrings of the fields
        assert "Cardinality" in done.stdout or "cardinality" in done.stdout  # the spec's as well


@pytest.mark.parametrize(
    "args, said",
    [
        (["train", "digitz"], "'digitz'"),
        (["train", "digits", "--optim.lr", "-1"], "optim.lr -1.0: must be positive"),
    ],
)
def test_a_mistake_is_told_without_jax(args, said):
    done, imported = python("-m", "train", *args)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert imported & HEAVY == set()


def test_an_option_that_the_network_lacks():
    """A recipe may have set it for another one: the message says how to take it back."""
    with pytest.raises(ConfigError, match=r"'zero_gamma' of model 'lenet5': .*'None' drops"):
        ModelConfig(name="lenet5", zero_gamma=False)
    assert ModelConfig(name="lenet5", zero_gamma=None).changes == {}

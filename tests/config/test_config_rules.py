"""train/config/: values of a wrong type, wrong choices and values against a rule."""

import math
import re
import typing

import pytest

from tests.config.test_config import nest, refusal
from train.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    InitConfig,
    LossConfig,
    MeshConfig,
    MixConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from train.config.serialize import flatten, from_json, to_json


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
    sections |= {"loss.": LossConfig}
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
        *("precision", "ema_rule"),
        *("model." + f for f in ("block", "stem", "stem_pool", "stride_at", "shortcut")),
        *("model." + f for f in ("anti_alias", "activation", "attention", "norm")),
        *("model." + f for f in ("output_stride", "kernel_init", "kernel_fan")),
        *("data." + f for f in ("held_out", "balance", "order", "listing", "mean", "whiten")),
        *("data.on_bad_image", "data.decoder"),
        "data.resident",
        *("mix." + f for f in ("smooth_over", "per", "erasing_fill")),
        *("loss." + f for f in ("name", "reduction", "class_weights")),
        *("augment." + f for f in ("crop", "pad_mode", "interpolation")),
        *("optim." + f for f in ("name", "decay", "decay_mask", "scaling", "schedule")),
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
    ("duration", ["", "ep", "-1ep", "1 ep", "1e3st", "5%"], ["1.5ep", "1st"], "'500st'"),
    ("duration", ["0ep", "0st", "0.0ep", "0h", "0min"], ["0.01ep"], "must be more than 0"),
    ("duration", ["2 h", "2hours", "h"], ["2h", "1.5h", "90min"], "'500st'"),
    ("log_every", ["0st"], ["1st"], "must be more than 0"),
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
    ("data.mean", [[], [0.5, 0.5], [0.5] * 4], [[0.5], [0.5] * 3], "three for RGB"),
    ("data.std", [[], [0.5, 0.5]], [[0.5], [0.5] * 3], "three for RGB"),
    ("data.std", [[0.0], [0.5, 0.5, -0.5]], [[1e-9]], "must be positive"),
    ("augment.area", [[0.0, 1.0], [0.5, 0.4], [0.5, 1.1]], [[1.0, 1.0]], "0 < low <= high <= 1"),
    ("augment.aspect", [[0.0, 1.0], [2.0, 1.0]], [[1.0, 1.0], [2.0, 9.0]], "0 < low <= high"),
    ("augment.pad", [-1], [0], "must be at least 0"),
    (
        "augment.scale",
        [[0, 9], [9, 8], [-1, 9]],
        [[256, 256], [0, 0]],
        "needs 1 <= low <= high, or 0 0",
    ),
    ("augment.zoom", [[0.0, 1.0], [2.0, 1.0]], [[1.0, 1.0], [0.5, 9.0]], "0 < low <= high"),
    ("augment.zoom", [[1.0, math.inf]], [[0.1, 0.1]], "must be finite"),
    ("augment.blur_sigma", [[0.0, 1.0], [2.0, 1.0]], [[1.0, 1.0]], "0 < low <= high"),
    ("augment.rotate", [-1.0, 181.0, math.nan], [0.0, 180.0], "must be in [0, 180]"),
    ("augment.translate", [-0.1, 1.1], [0.0, 1.0], "must be in [0, 1]"),
    ("augment.grey", [-0.1, 1.1], [0.0, 1.0], "must be in [0, 1]"),
    ("augment.blur", [-0.1, 1.1], [0.0, 1.0], "must be in [0, 1]"),
    ("augment.shear", [-0.1, 90.0], [0.0, 89.0], "must be in [0, 90)"),
    ("augment.fill", [[], [1, 2]], [[1], [1, 2, 3]], "needs one value, or three"),
    ("augment.fill", [[-1], [0, 0, 256]], [[0], [255]], "must be in 0..255"),
    (
        "augment.jitter",
        [[-0.1, 0, 0, 0], [0, 0, 0, 0.6], [math.nan, 0, 0, 0]],
        [[9, 9, 9, 0.5]],
        "hue",
    ),
    ("augment.lighting", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("augment.repeats", [0], [1, 256], "must be at least 1"),
    ("augment.repeats", [257], [256], "must be at most batch_size 256"),
    ("augment.lighting", [math.inf], [0.1], "must be finite"),
    (
        "augment.policy",
        ["rand9", "random", "TA_wide"],
        ["ta_wide", "augmix", "rand", ""],
        "'ta_wide', ",
    ),
    ("augment.policy", ["rand-", "rand-m7-m8", "rand-m1.5"], ["rand-m7-n3"], "m7 (magnitude)"),
    ("augment.policy", ["rand-p0", "rand-n0", "rand-inc2"], ["rand-m0-p1-inc0"], "is invalid"),
    ("augment.policy", ["rand-w1", "rand-w0-w0", "rand-x3"], ["rand-w0"], "w0 or tweights"),
    ("augment.policy", ["rand-n14-w0", "rand-n16-tweights"], ["rand-n13-w0"], "can be drawn"),
    ("augment.size_start", [-1, 224], [0, 223], "must be "),
    ("augment.size_step", [0], [1], "must be at least 1"),
    ("mix.label_smoothing", [-0.1, 1.0], [0.0, 0.99], "[0, 1)"),
    ("mix.mixup", [-0.1, math.nan], [0.0, 2.0], "must be at least 0"),
    ("mix.cutmix", [-0.1, math.nan], [0.0, 2.0], "must be at least 0"),
    ("mix.cutmix", [math.inf], [0.0, 2.0], "must be finite"),
    ("mix.probability", [-0.1, 1.1, math.nan], [0.0, 1.0], "[0, 1]"),
    ("mix.switch", [-0.1, 1.1], [0.0, 1.0], "[0, 1]"),
    ("mix.erasing", [-0.1, 1.1], [0.0, 1.0], "[0, 1]"),
    ("mix.cutout", [-1], [0, 1], "must be at least 0"),
    (
        "mix.erasing_area",
        [[0.0, 1.0], [0.5, 0.4], [0.5, 1.1]],
        [[1.0, 1.0]],
        "0 < low <= high <= 1",
    ),
    ("mix.erasing_aspect", [[0.0, 1.0], [2.0, 1.0]], [[1.0, 1.0]], "0 < low <= high"),
    ("loss.threshold", [-0.1, 1.0, math.nan], [0.0, 0.99, None], "[0, 1)"),
    ("loss.gamma", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("loss.l1", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("loss.l2", [math.inf], [0.0], "must be finite"),
    ("loss.class_weights", [[], [1.0, 0.0], [1.0, math.inf]], [[1.0, 2.0], "none"], "one positive"),
    ("optim.lr", [0.0, -0.1, math.nan], [1e-9], "must be positive"),
    ("optim.lr", [math.inf], [1e9], "must be finite"),
    ("optim.weight_decay", [math.inf], [1e9], "must be finite"),
    ("optim.clip", [math.inf], [1e9], "must be finite"),
    ("data.mean", [[math.inf], [0.5, 0.5, math.nan]], [[0.0]], "must be finite"),
    ("data.std", [[math.nan], [0.5, math.inf, 0.5]], [[9.0]], "must be finite"),
    ("optim.lr_batch", [-1], [0], "must be at least 0"),
    ("optim.momentum", [-0.1, 1.0], [0.0, 0.99], "[0, 1)"),
    ("optim.beta2", [-0.1, 1.0], [0.0, 0.999], "[0, 1)"),
    ("optim.epsilon", [-1e-9, 0.0, math.nan], [1e-30], "must be positive"),
    ("optim.weight_decay", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("optim.clip", [-1.0, math.nan], [0.0], "must be at least 0"),
    ("optim.accumulate", [0, -1], [1, 4, 256], "must be at least 1"),
    ("optim.accumulate", [3, 512], [2], "does not divide batch_size 256"),
    ("optim.clip_value", [-1.0, math.nan, math.inf], [0.0, 1.0], "must be "),
    ("ema_every", ["", "5%"], ["1st", "1ep"], "'500st'"),
    ("swa_start", ["x", "1"], ["", "75%", "0st", "3ep"], "or '' (off)"),
    ("optim.cycle", ["5%", "x"], ["", "1ep"], "or '' (off)"),
    ("optim.hold", ["5%", "1ep"], [""], "needs an optim.floor above 0"),
    ("optim.sam", [-0.1, math.nan, math.inf], [0.0, 2.0], "must be "),
    ("patience", [-1], [0, 1], "must be at least 0"),
    ("optim.gamma", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("optim.trust", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("optim.floor", [-0.1, math.nan], [0.0], "must be at least 0"),
    ("optim.power", [0.0, -1.0], [0.5], "must be positive"),
    ("optim.power", [math.inf], [0.5], "must be finite"),
    ("optim.warmup", ["", "5 %", "-5%"], ["0st", "5%", "5ep"], SHARE),
    ("optim.warmup", ["100%", "200%"], ["99.9%", "0%"], "must be shorter than the run"),
    ("data.whiten_epsilon", [0.0, math.inf], [1e-9], "must be positive"),
    ("eval.every", ["0st", "0ep"], ["0.1ep"], "must be more than 0"),
    ("checkpoint.every", ["0st"], [""], "must be more than 0, or '' (off)"),
    ("eval.every", ["", "5%", "often"], ["1ep", "100st"], "'90ep', '500st'"),
    ("eval.batch_size", [0], [1], "must be at least 1"),
    ("init.weights", [""], ["missing.pth", None], "needs a file, or NAME.TAG"),
    ("eval.crop_fraction", [0.0, 1.01], [1.0, 0.01], "(0, 1]"),
    ("checkpoint.every", ["5%", "x"], ["", "1ep"], "'90ep', '500st' or '' (off)"),
    ("eval.precise_bn", [-1], [1], "must be at least 0"),
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


@pytest.mark.parametrize(
    ("field", "value", "units"),
    [
        ("duration", "3", "'3ep', '3st'"),
        ("optim.warmup", "5", "'5ep', '5st', '5%'"),
        ("checkpoint.every", "2.5", "'2.5ep', '2.5st' or '' (off)"),
    ],
)
def test_a_number_without_a_unit_comes_back_with_one(field, value, units):
    message = refusal(from_json, nest({field: value}))
    assert message == f"{field} {value!r} is not a duration: write {units}"


def test_scale_jitter_is_not_smaller_than_the_crop():
    data = DataConfig(image_size=224)
    message = refusal(RunConfig, data=data, augment=AugmentConfig(scale=(223, 480)))
    assert message == "augment.scale (223, 480): must be at least data.image_size 224"
    assert RunConfig(data=data, augment=AugmentConfig(scale=(224, 480)))


@pytest.mark.parametrize("bad", ["", "half"])
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

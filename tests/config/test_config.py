"""train/config/: the round trip to JSON, differences."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from train.config import (
    ConfigError,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from train.config.serialize import differences, flatten, from_json, to_json
from train.recipes import all_recipes, get_recipe

ROOT = Path(__file__).parents[2]
RECIPES = list(all_recipes())

# Every field: a value that is not its default, and one more that is neither.
EVERY = {
    "recipe": ("mine", "yours"),
    "duration": ("7ep", "7st"),
    "batch_size": (48, 96),
    "seed": (3, 4),
    "precision": ("fp32", "bf16"),
    "ema_decay": (0.5, 0.25),
    "ema_every": ("3st", "4st"),
    "ema_rule": ("torchvision", "ramp"),
    "swa_start": ("5%", ""),
    "norm_group_size": (16, "device"),
    "scan": (True, False),
    "skip_nonfinite": (3, 4),
    "patience": (3, 4),
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
    "model.activation_slope": (0.5, 0.25),
    "model.attention": ("se", "eca"),
    "model.se_ratio": (0.5, 0.25),
    "model.norm": ("group", "batch"),
    "model.norm_groups": (4, 2),
    "model.weight_standardization": (True, False),
    "model.output_stride": (16, 8),
    "model.zero_gamma": (False, True),
    "model.kernel_init": ("xavier_uniform", "zeros"),
    "model.kernel_fan": ("in", "out"),
    "model.kernel_slope": (0.5, 0.25),
    "model.kernel_std": (0.5, 0.25),
    "model.zero_conv": (False, True),
    "model.norm_bias": (0.5, 0.25),
    "model.head_std": (0.5, 0.25),
    "model.head_bias": (0.5, 0.25),
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
    "data.test_split": ("a", "b"),
    "data.image_key": ("image", "photo"),
    "data.label_key": ("label", "kind"),
    "data.multi_label": (True, False),
    "data.remap_labels": (True, False),
    "data.eval_fraction": (0.5, 0.25),
    "data.split_seed": (3, 4),
    "data.held_out": ("by_place", "by_name"),
    "data.balance": ("sqrt_inverse", "inverse"),
    "data.order": (1, 2),
    "data.listing": (1, 2),
    "data.image_size": (3, 4),
    "data.mean": ([0.5], [0.5, 0.25, 0.75]),
    "data.std": ([0.5], [0.5, 0.25, 0.75]),
    "data.whiten": ("zca", "pca"),
    "data.whiten_epsilon": (0.5, 0.25),
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
    "augment.vertical_flip": (True, False),
    "augment.scale": ([256, 480], [32, 40]),
    "augment.pad_mode": ("reflect", "zeros"),
    "augment.interpolation": ("bicubic", "random"),
    "augment.rotate": (0.5, 0.25),
    "augment.translate": (0.5, 0.25),
    "augment.shear": (0.5, 0.25),
    "augment.zoom": ([0.5, 0.75], [0.25, 0.75]),
    "augment.policy": ("ta_wide", "rand-m9"),
    "augment.fill": ([1], [1, 2, 3]),
    "augment.jitter": ([0.5, 0.25, 0.75, 0.125], [0.5, 0.0, 0.0, 0.0]),
    "augment.grey": (0.5, 0.25),
    "augment.blur": (0.5, 0.25),
    "augment.blur_sigma": ([0.5, 0.75], [0.25, 0.75]),
    "augment.lighting": (0.5, 0.25),
    "augment.repeats": (3, 4),
    "augment.size_start": (2, 1),
    "augment.size_ramp": (["1ep", "20%"], ["1ep", "2ep"]),
    "augment.size_step": (3, 4),
    "mix.label_smoothing": (0.5, 0.25),
    "mix.smooth_over": ("others", "all"),
    "mix.mixup": (0.5, 0.25),
    "mix.cutmix": (0.5, 0.25),
    "mix.probability": (0.5, 0.25),
    "mix.switch": (0.75, 0.25),
    "mix.per": ("example", "batch"),
    "mix.off": ("1ep", "5%"),
    "mix.cutout": (2, 1),
    "mix.erasing": (0.5, 0.25),
    "mix.erasing_area": ([0.5, 0.75], [0.25, 0.75]),
    "mix.erasing_aspect": ([0.5, 0.75], [0.25, 0.75]),
    "mix.erasing_fill": ("channel", "pixel"),
    "loss.name": ("bce", "focal"),
    "loss.threshold": (0.5, 0.25),
    "loss.reduction": ("sum", "mean"),
    "loss.gamma": (0.5, 0.25),
    "loss.class_weights": ([0.5, 2.0], "sqrt_inverse"),
    "loss.l1": (0.5, 0.25),
    "loss.l1_on": ("head/.*", "a"),
    "loss.l2": (0.5, 0.25),
    "loss.l2_on": ("head/.*", "a"),
    "optim.name": ("adamw", "sgd"),
    "optim.lr": (0.5, 0.25),
    "optim.lr_batch": (3, 0),
    "optim.momentum": (0.5, 0.25),
    "optim.nesterov": (True, False),
    "optim.beta2": (0.5, 0.25),
    "optim.epsilon": (0.5, 0.25),
    "optim.trust": (0.5, 0.25),
    "optim.weight_decay": (0.5, 0.25),
    "optim.decay": ("decoupled", "l2"),
    "optim.decay_mask": ("all", "kernels"),
    "optim.clip": (0.5, 0.25),
    "optim.clip_value": (0.5, 0.25),
    "optim.sam": (0.5, 0.25),
    "optim.accumulate": (3, 1),
    "optim.schedule": ("step", "constant"),
    "optim.warmup": ("5%", "5ep"),
    "optim.milestones": (["1ep", "20%"], ["1ep"]),
    "optim.gamma": (0.5, 0.25),
    "optim.power": (0.5, 0.25),
    "optim.floor": (0.5, 0.25),
    "optim.hold": ("5%", "1ep"),
    "optim.cycle": ("3st", "4st"),
    "optim.cycle_lr": (0.75, 0.625),
    "optim.scaling": ("sqrt", "linear"),
    "eval.every": ("3st", "4st"),
    "eval.batch_size": (3, 4),
    "eval.crop_fraction": (0.5, 0.25),
    "eval.interpolation": ("bicubic", "bilinear"),
    "eval.precise_bn": (3, 4),
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
    # values equal to the spec are not repeated
    model = json.loads(json.dumps(config.model.changes))  # tuples are lists in JSON
    assert tree["model"] == {"name": config.model.name, **model}


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


def test_an_option_that_the_network_lacks():
    """The recipe may have set it for another network: the message says how to drop it."""
    with pytest.raises(ConfigError, match=r"'zero_gamma' of model 'lenet5': .*; set it to None"):
        ModelConfig(name="lenet5", zero_gamma=False)
    assert ModelConfig(name="lenet5", zero_gamma=None).changes == {}

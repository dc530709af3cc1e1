"""Conditions of the options of the network."""

from train.config.conditions.base import Condition, spec_of

MODEL = (
    Condition(
        ("norm_group_size", "model.norm_momentum", "eval.precise_bn"),
        "model.norm",
        lambda config: getattr(spec_of(config), "norm", "batch") == "batch",
        "BatchNorm",
    ),
    Condition(
        ("model.norm_groups",),
        "model.norm",
        lambda config: spec_of(config).norm == "group",
        "model.norm group",
    ),
    Condition(
        ("model.activation_slope",),
        "model.activation",
        lambda config: spec_of(config).activation in ("leaky_relu", "prelu"),
        "model.activation leaky_relu and prelu",
    ),
    Condition(
        ("model.kernel_fan", "model.kernel_slope"),
        "model.kernel_init",
        lambda config: spec_of(config).kernel_init.startswith("kaiming"),
        "model.kernel_init kaiming_normal and kaiming_uniform",
    ),
    Condition(
        ("model.kernel_std",),
        "model.kernel_init",
        lambda config: spec_of(config).kernel_init == "normal",
        "model.kernel_init normal",
    ),
    Condition(
        ("model.se_ratio",),
        "model.attention",
        lambda config: spec_of(config).attention == "se",
        "model.attention se",
    ),
    Condition(
        ("model.drop_block_size",),
        "model.drop_block",
        lambda config: spec_of(config).drop_block > 0,
        "model.drop_block above 0",
    ),
    Condition(
        ("model.block",),
        "model.stage_blocks",
        lambda config: not spec_of(config).stage_blocks,
        "networks without model.stage_blocks",
    ),
)

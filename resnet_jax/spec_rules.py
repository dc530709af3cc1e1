"""Rules of a `ResNetSpec` beyond the types of its fields. Imports no JAX."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.spec import ResNetSpec

_COUNTS = (
    "width",
    "groups",
    "group_width",
    "reduce_first",
    "stem_width",
    "shortcut_kernel",
    "norm_groups",
    "drop_block_size",
)
_SHARES = ("drop_path", "drop_block", "block_dropout", "dropout", "drop_connect", "norm_momentum")


def check_shares(spec: Any, names: tuple[str, ...]) -> None:
    """Raises `ValueError` unless all these fields are in [0, 1)."""
    for name in names:
        if not 0 <= getattr(spec, name) < 1:
            raise ValueError(f"{name} {getattr(spec, name)}: must be in [0, 1)")


def check_starts(spec: Any) -> None:
    """Raises `ValueError` unless the options of the initial values are finite, and deviations not
    negative."""
    for name in ("activation_slope", "norm_bias", "head_bias", "kernel_slope"):
        value = getattr(spec, name, None)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} {value}: must be finite")
    for name in ("kernel_std", "head_std"):
        value = getattr(spec, name, None)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} {value}: must be at least 0")


def check_rules(spec: ResNetSpec) -> None:
    """Raises `ValueError` for values, or combinations of values, that cannot be built."""
    if not spec.depths or min(spec.depths) < 1:
        raise ValueError(f"depths {spec.depths!r}: needs one positive number per stage")
    for field in _COUNTS:
        value = getattr(spec, field)
        if value is not None and value < 1:
            raise ValueError(f"{field} {value}: must be at least 1")
    check_shares(spec, _SHARES)
    check_starts(spec)
    for field in ("stage_blocks", "stage_widths"):
        given = len(getattr(spec, field))
        if given not in (0, len(spec.depths)):
            raise ValueError(
                f"{field} {getattr(spec, field)!r}: needs one value for each of "
                f"{len(spec.depths)} stages, or no values"
            )
    if not 0 < spec.se_ratio <= 1:
        raise ValueError(f"se_ratio {spec.se_ratio}: must be in (0, 1]")
    if min(spec.stage_widths, default=1) < 1:
        raise ValueError(f"stage_widths {spec.stage_widths}: each must be at least 1")
    if spec.shortcut_kernel % 2 == 0:
        raise ValueError(f"shortcut_kernel {spec.shortcut_kernel}: must be odd")
    _check_combinations(spec)


def _check_combinations(spec: ResNetSpec) -> None:
    if not 0 < spec.norm_epsilon < math.inf:
        raise ValueError(f"norm_epsilon {spec.norm_epsilon}: must be positive")
    least = {"deep": 2, "tiered": 3}.get(spec.stem, 1)
    if spec.stem_features < least:
        raise ValueError(
            f"{'width' if spec.stem_width is None else 'stem_width'} {spec.stem_features}: "
            f"a {spec.stem} stem starts with a fraction of it; must be at least {least}"
        )
    widths = [spec.stage_width(stage) for stage in range(len(spec.depths))]
    if min(widths) * spec.group_width < 64:
        raise ValueError(
            f"group_width {spec.group_width}: a stage of width {min(widths)} has groups of less "
            "than one channel; use a larger group_width or width"
        )
    if spec.drop_path and spec.shortcut == "none":
        raise ValueError(f"drop_path {spec.drop_path}: needs a shortcut; shortcut is 'none'")
    kinds = {spec.stage_block(stage) for stage in range(len(spec.depths))}
    if "basic" in kinds and (spec.groups, spec.group_width) != (1, 64):
        raise ValueError(
            f"groups {spec.groups} x {spec.group_width}: a basic block has no groups; use block "
            "'bottleneck'"
        )
    if "basic" in kinds and spec.stride_at == "1x1":
        raise ValueError("stride_at '1x1': a basic block has no 1x1; choose '3x3'")
    projections = "avg_down" if spec.avg_down else "shortcut_kernel"
    if (spec.avg_down or spec.shortcut_kernel > 1) and spec.shortcut not in ("B", "C"):
        raise ValueError(
            f"{projections}: shortcut {spec.shortcut!r} has no projection; 'B', 'C' do"
        )
    if spec.zero_conv and spec.zero_gamma and spec.shortcut != "none":
        raise ValueError(
            "zero_conv: with zero_gamma no gradient would reach a residual branch; set zero_gamma "
            "to False"
        )
    _check_groups(spec)


def _check_groups(spec: ResNetSpec) -> None:
    convs = [*spec.stem_convs(), *(conv for block in spec.blocks() for conv in block.convs)]
    if min(conv.features for conv in convs) < 1:
        raise ValueError(f"reduce_first {spec.reduce_first}: a first layer has less than 1 channel")
    for conv, before in zip(convs[1:], convs, strict=False):
        if before.features % conv.groups:
            raise ValueError(
                f"reduce_first {spec.reduce_first}: gives {before.features} channels, which "
                f"{conv.groups} groups do not divide"
            )
    features = spec.stem_features
    for block in spec.blocks():
        if block.shortcut == "pad" and block.features < features:
            raise ValueError(
                f"shortcut 'A': cannot narrow {features} channels to {block.features}; "
                "'B' and 'C' can"
            )
        features = block.features
    if spec.norm == "group":
        for conv in convs:
            if conv.features % spec.norm_groups:
                raise ValueError(
                    f"norm_groups {spec.norm_groups}: does not divide the {conv.features} "
                    "channels of a norm"
                )

"""The networks by name. A variant is one line of difference.

Names are those of torchvision and timm (1.0.31) if they have the network; `tests/parity` compares
their outputs. Other names have a suffix. Imports no JAX.
"""

import difflib
import fnmatch
from dataclasses import fields, replace

from resnet_jax.spec import LeNetSpec, ResNetSpec, Spec

R18 = ResNetSpec(depths=(2, 2, 2, 2), block="basic")
R34 = replace(R18, depths=(3, 4, 6, 3))
R50 = ResNetSpec(depths=(3, 4, 6, 3))
R14 = replace(R50, depths=(1, 1, 1, 1))
R26 = replace(R50, depths=(2, 2, 2, 2))
R101 = replace(R50, depths=(3, 4, 23, 3))
R152 = replace(R50, depths=(3, 8, 36, 3))
R200 = replace(R50, depths=(3, 24, 36, 3))
R269 = replace(R50, depths=(3, 30, 48, 8))

# He 2016a, table 1; 200: He 2016b, section 5. The plain names are v1.5 (B), as torchvision's are.
IMAGENET = {18: R18, 34: R34, 50: R50, 101: R101, 152: R152, 200: R200}


def c(spec: ResNetSpec) -> ResNetSpec:
    """A deep stem (He 2019, "Bag of Tricks", 4.2)."""
    return replace(spec, stem="deep")


def d(spec: ResNetSpec) -> ResNetSpec:
    """A deep stem, and projections that average-pool (He 2019, 4.2)."""
    return replace(spec, stem="deep", avg_down=True)


def t(spec: ResNetSpec) -> ResNetSpec:
    """Like D, with a stem of increasing widths (timm)."""
    return replace(spec, stem="tiered", avg_down=True)


def next_(spec: ResNetSpec, groups: int, group_width: int) -> ResNetSpec:
    """ResNeXt (Xie 2017, arXiv:1611.05431)."""
    return replace(spec, groups=groups, group_width=group_width)


def se(spec: ResNetSpec) -> ResNetSpec:
    """Squeeze-excite (Hu 2018, arXiv:1709.01507)."""
    return replace(spec, attention="se")


def eca(spec: ResNetSpec) -> ResNetSpec:
    """Efficient channel attention (Wang 2020, arXiv:1910.03151)."""
    return replace(spec, attention="eca")


def aa(spec: ResNetSpec) -> ResNetSpec:
    """Average-pooled strides (timm; Zhang 2019, arXiv:1904.11486)."""
    return replace(spec, anti_alias="avg")


def blur(spec: ResNetSpec) -> ResNetSpec:
    """Blurred strides (Zhang 2019, arXiv:1904.11486)."""
    return replace(spec, anti_alias="blur")


def rs(*depths: int) -> ResNetSpec:
    """ResNet-RS (Bello 2021, arXiv:2103.07579)."""
    spec = ResNetSpec(depths=depths, attention="se", se_ratio=0.25, stem_pool="conv")
    return d(spec)


def v2(spec: ResNetSpec) -> ResNetSpec:
    """Pre-activation (He 2016b, arXiv:1603.05027)."""
    return replace(spec, preact=True)


def bit(spec: ResNetSpec, factor: int) -> ResNetSpec:
    """BiT (Kolesnikov 2020, arXiv:1912.11370): v2, GroupNorm and weight standardisation."""
    return replace(
        v2(spec),
        width=64 * factor,
        norm="group",
        weight_standardization=True,
        stem_pool="zero_max",
        zero_gamma=False,  # standardising a kernel of zeros multiplies its gradient by 1e4
    )


def cifar(depth: int) -> ResNetSpec:
    """He 2016a, 4.2: 6n+2 layers of basic blocks, widths 16, 32, 64, shortcut A, 32x32 images."""
    return ResNetSpec(
        depths=((depth - 2) // 6,) * 3,
        block="basic",
        width=16,
        stem="3x3",
        shortcut="A",
    )


def cifar_bottleneck(depth: int) -> ResNetSpec:
    """He 2016b, table 4: 9n+2 layers of pre-activation bottlenecks, widths 64, 128, 256."""
    return ResNetSpec(depths=((depth - 2) // 9,) * 3, width=16, stem="3x3", preact=True)


def wide_cifar(depth: int, factor: int) -> ResNetSpec:
    """WRN-depth-factor (Zagoruyko 2016, arXiv:1605.07146, table 1): 6n+4 layers."""
    return ResNetSpec(
        depths=((depth - 4) // 6,) * 3,
        block="basic",
        width=16 * factor,
        stem="3x3",
        stem_width=16,
        preact=True,
    )


def next_cifar(groups: int) -> ResNetSpec:
    """ResNeXt-29, groups x 64d (Xie 2017, 5.3)."""
    return ResNetSpec(depths=(3, 3, 3), stem="3x3", groups=groups)


def plain(spec: ResNetSpec) -> ResNetSpec:
    """The same layers without shortcuts, for the degradation experiment (He 2016a, 4.1 and 4.2)."""
    return replace(spec, shortcut="none")


ZOO: dict[str, Spec] = {
    **{f"resnet{n}": spec for n, spec in IMAGENET.items()},
    "resnet26": R26,
    # v1: the stride on the 1x1, where the block has one (He 2016a as published)
    **{f"resnet{n}_v1": replace(IMAGENET[n], stride_at="1x1") for n in (50, 101, 152, 200)},
    **{f"resnet{n}c": c(spec) for n, spec in IMAGENET.items()},
    **{f"resnet{n}d": d(spec) for n, spec in (IMAGENET | {26: R26}).items()},
    **{f"resnet{n}s": replace(c(IMAGENET[n]), stem_width=128) for n in (50, 101, 152)},
    "resnet10t": t(replace(R18, depths=(1, 1, 1, 1))),
    **{f"resnet{n}t": t(spec) for n, spec in {14: R14, 26: R26, 50: R50}.items()},
    "resnet50_gn": replace(R50, norm="group"),
    "wide_resnet50_2": replace(R50, group_width=128),
    "wide_resnet101_2": replace(R101, group_width=128),
    "resnext50_32x4d": next_(R50, 32, 4),
    "resnext50d_32x4d": d(next_(R50, 32, 4)),
    **{f"resnext101_32x{w}d": next_(R101, 32, w) for w in (4, 8, 16, 32)},
    "resnext101_64x4d": next_(R101, 64, 4),
    # Squeeze-excite
    **{f"seresnet{n}": se(IMAGENET[n]) for n in (18, 34, 50, 101, 152)},
    "seresnet50t": t(se(R50)),
    **{f"seresnet{n}d": d(se(s)) for n, s in {152: R152, 200: R200, 269: R269}.items()},
    "seresnext26d_32x4d": d(se(next_(R26, 32, 4))),
    "seresnext26t_32x4d": t(se(next_(R26, 32, 4))),
    "seresnext50_32x4d": se(next_(R50, 32, 4)),
    **{f"seresnext101_32x{w}d": se(next_(R101, 32, w)) for w in (4, 8)},
    "seresnext101d_32x8d": d(se(next_(R101, 32, 8))),
    "seresnext101_64x4d": se(next_(R101, 64, 4)),
    "senet154": replace(
        c(se(next_(R152, 64, 4))), stem_width=128, reduce_first=2, shortcut_kernel=3
    ),
    # Efficient channel attention
    "ecaresnet26t": t(eca(R26)),
    "ecaresnet50t": t(eca(R50)),
    **{f"ecaresnet{n}d": d(eca(s)) for n, s in {50: R50, 101: R101, 200: R200, 269: R269}.items()},
    "ecaresnetlight": replace(eca(R50), depths=(1, 1, 11, 3), avg_down=True),
    "ecaresnext26t_32x4d": t(eca(next_(R26, 32, 4))),
    "ecaresnext50t_32x4d": t(eca(next_(R50, 32, 4))),
    # Anti-aliased
    "resnetblur18": blur(R18),
    "resnetblur50": blur(R50),
    "resnetblur50d": blur(d(R50)),
    "resnetblur101d": blur(d(R101)),
    "resnetaa34d": aa(d(R34)),
    "resnetaa50": aa(R50),
    "resnetaa50d": aa(d(R50)),
    "resnetaa101d": aa(d(R101)),
    "seresnetaa50d": aa(d(se(R50))),
    "seresnextaa101d_32x8d": aa(d(se(next_(R101, 32, 8)))),
    "seresnextaa201d_32x8d": replace(
        aa(d(se(next_(R50, 32, 8)))), depths=(3, 24, 36, 4), stem_width=128
    ),
    # ResNet-RS
    "resnetrs50": rs(3, 4, 6, 3),
    "resnetrs101": rs(3, 4, 23, 3),
    "resnetrs152": rs(3, 8, 36, 3),
    "resnetrs200": rs(3, 24, 36, 3),
    "resnetrs270": rs(4, 29, 53, 4),
    "resnetrs350": rs(4, 36, 72, 4),
    "resnetrs420": rs(4, 44, 87, 4),
    "test_resnet": replace(
        d(R14),
        stage_blocks=("basic", "basic", "bottleneck", "basic"),
        stage_widths=(32, 48, 48, 96),
        stem_width=32,
    ),
    # Pre-activation
    **{f"resnetv2_{n}": v2(spec) for n, spec in IMAGENET.items()},
    **{f"resnetv2_{n}d": d(v2(IMAGENET[n])) for n in (18, 34, 50, 101, 152)},
    "resnetv2_50t": t(v2(R50)),
    "resnetv2_50d_gn": replace(d(v2(R50)), norm="group"),
    **{f"resnetv2_50x{w}_bit": bit(R50, w) for w in (1, 3)},
    **{f"resnetv2_101x{w}_bit": bit(R101, w) for w in (1, 3)},
    **{f"resnetv2_152x{w}_bit": bit(R152, w) for w in (2, 4)},
    # 32x32 images
    **{f"resnet{n}_cifar": cifar(n) for n in (8, 14, 20, 32, 44, 56, 110, 1202)},
    "resnetv2_110_cifar": v2(cifar(110)),
    **{f"resnetv2_{n}_cifar": cifar_bottleneck(n) for n in (164, 1001)},
    **{f"wrn{n}_{k}_cifar": wide_cifar(n, k) for n, k in ((16, 8), (28, 10), (40, 2))},
    **{f"resnext29_{n}x64d_cifar": next_cifar(n) for n in (8, 16)},
    "lenet5": LeNetSpec(),
    # Degradation
    **{f"plain{n}": plain(IMAGENET[n]) for n in (18, 34)},
    **{f"plain{n}_cifar": plain(cifar(n)) for n in (20, 32, 44, 56, 110)},
}

# Side of the images that timm's default weights were trained on, if it is not 224.
IMAGE_SIZES = {
    **dict.fromkeys(("resnet10t", "resnet14t"), 176),
    **dict.fromkeys(("resnet26t", "resnet101d", "resnet152d", "resnet200d"), 256),
    **dict.fromkeys(("seresnet152d", "seresnet200d", "seresnet269d"), 256),
    **dict.fromkeys(("ecaresnet26t", "ecaresnet50t", "ecaresnet200d"), 256),
    "ecaresnet269d": 320,
    "seresnextaa101d_32x8d": 288,
    "seresnextaa201d_32x8d": 384,
    **{"resnetrs50": 160, "resnetrs101": 192, "resnetrs350": 288, "resnetrs420": 320},
    **{f"resnetrs{n}": 256 for n in (152, 200, 270)},
    "test_resnet": 160,
    **{f"resnetv2_{n}_bit": 448 for n in ("50x3", "101x1", "101x3")},
    "resnetv2_152x4_bit": 480,
}


def image_size(name: str) -> int:
    """Side in pixels of the images that the default published weights were trained on."""
    return IMAGE_SIZES.get(name, get_spec(name).image_size)


def num_classes(name: str) -> int:
    """Number of classes that a network was designed for: 1000 (ImageNet) or 10 (CIFAR-10)."""
    return 10 if get_spec(name).image_size == 32 else 1000


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell pattern, in the zoo's order.

    Examples:
      >>> list_models("resnet50*")
      ['resnet50', 'resnet50_v1', 'resnet50c', 'resnet50d', 'resnet50s', 'resnet50t', 'resnet50_gn']
    """
    return [name for name in ZOO if fnmatch.fnmatch(name, pattern)]


def get_spec(name: str, **changes: object) -> Spec:
    """The spec of a named network, with some fields changed.

    Args:
      name: one of `list_models()`.
      **changes: fields of the spec.

    Raises:
      ValueError: unknown name (the message lists similar ones), field or value.

    Examples:
      >>> get_spec("resnet20_cifar", shortcut="B").shortcut
      'B'
    """
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=5, cutoff=0.5) or list(ZOO)[:5]
        raise ValueError(
            f"unknown model {name!r}: did you mean {', '.join(near)}? "
            f"`resnet-jax models` lists all {len(ZOO)}"
        )
    spec = ZOO[name]
    known = [field.name for field in fields(spec)]
    for change in changes:
        if change not in known:
            raise ValueError(
                f"unknown option {change!r} of model {name!r}: choose from {', '.join(known)}"
            )
    return replace(spec, **changes)  # type: ignore[arg-type]

"""Name -> `ResNetSpec`. A variant is one line of difference.

Nothing here imports JAX.
"""

import difflib
import fnmatch
from dataclasses import replace

from resnet_jax.spec import ResNetSpec

R18 = ResNetSpec(depths=(2, 2, 2, 2), block="basic")
R34 = replace(R18, depths=(3, 4, 6, 3))
R50 = ResNetSpec(depths=(3, 4, 6, 3))

# He 2016a, table 1; 200: He 2016b, section 5. The plain names are v1.5 (B), as torchvision's are.
IMAGENET = {
    18: R18,
    34: R34,
    50: R50,
    101: replace(R50, depths=(3, 4, 23, 3)),
    152: replace(R50, depths=(3, 8, 36, 3)),
    200: replace(R50, depths=(3, 24, 36, 3)),
}


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


def plain(spec: ResNetSpec) -> ResNetSpec:
    """The same layers without shortcuts, for the degradation experiment (He 2016a, 4.1 and 4.2)."""
    return replace(spec, shortcut="none")


ZOO: dict[str, ResNetSpec] = {
    **{f"resnet{d}": spec for d, spec in IMAGENET.items()},
    # v1: the stride on the 1x1, where the block has one (He 2016a as published)
    **{
        f"resnet{d}_v1": replace(spec, stride_at="1x1")
        for d, spec in IMAGENET.items()
        if spec.block == "bottleneck"
    },
    # Bag of Tricks, section 4.2
    **{f"resnet{d}c": replace(spec, stem="deep") for d, spec in IMAGENET.items()},
    **{f"resnet{d}d": replace(spec, stem="deep", avg_down=True) for d, spec in IMAGENET.items()},
    **{f"resnetv2_{d}": replace(spec, preact=True) for d, spec in IMAGENET.items()},
    **{f"resnet{d}_cifar": cifar(d) for d in (8, 14, 20, 32, 44, 56, 110, 1202)},
    "resnetv2_110_cifar": replace(cifar(110), preact=True),
    **{f"resnetv2_{d}_cifar": cifar_bottleneck(d) for d in (164, 1001)},
    **{f"plain{d}": plain(IMAGENET[d]) for d in (18, 34)},
    **{f"plain{d}_cifar": plain(cifar(d)) for d in (20, 32, 44, 56, 110)},
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, in the zoo's order.

    >>> list_models("resnet50*")
    ['resnet50', 'resnet50_v1', 'resnet50c', 'resnet50d']
    """
    return [name for name in ZOO if fnmatch.fnmatch(name, pattern)]


def get_spec(name: str, **changes: object) -> ResNetSpec:
    """The spec of a name, with fields replaced.

    Raises:
      ValueError: unknown name (the nearest ones are listed), field or value.

    >>> get_spec("resnet20_cifar", shortcut="B").shortcut
    'B'
    """
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=5, cutoff=0.5) or list(ZOO)[:5]
        raise ValueError(
            f"unknown model {name!r}: did you mean {', '.join(near)}? "
            f"`resnet-jax models` lists all {len(ZOO)}"
        )
    try:
        return replace(ZOO[name], **changes)  # type: ignore[arg-type]
    except TypeError:
        unknown = sorted(set(changes) - set(ResNetSpec.__dataclass_fields__))
        raise ValueError(
            f"unknown option {unknown[0]!r} of model {name!r}: "
            f"choose from {', '.join(ResNetSpec.__dataclass_fields__)}"
        ) from None

"""What a residual network is made of, as data, for the modules that build it.

Nothing here imports JAX.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from resnet_jax.fields import check_fields


class ConvPlan(NamedTuple):
    """One convolution: square kernel, padded symmetrically by `kernel // 2`."""

    kernel: int
    features: int
    stride: int = 1
    groups: int = 1


class BlockPlan(NamedTuple):
    """One residual block: where it stands, its residual branch and the way around it."""

    stage: int
    width: int
    stride: int
    convs: tuple[ConvPlan, ...]
    shortcut: Literal["identity", "pad", "conv", "none"]

    @property
    def features(self) -> int:
        """Channels of the block's output."""
        return self.convs[-1].features


@dataclass(frozen=True)
class ResNetSpec:
    """Every architecture option of the family, validated once.

    Sources: He 2016a, "Deep Residual Learning" (arXiv:1512.03385); He 2016b, "Identity Mappings"
    (arXiv:1603.05027); Goyal 2017 (arXiv:1706.02677) for `zero_gamma`; He 2019, "Bag of Tricks"
    (arXiv:1812.01187) section 4 for the B, C and D variants; Huang 2016 (arXiv:1603.09382) for
    `drop_path`.

    Raises `ValueError` for a value that is not one of a field's choices, or that cannot be built.
    """

    depths: tuple[int, ...]
    """Residual blocks in each stage; every stage after the first halves the map."""
    block: Literal["basic", "bottleneck"] = "bottleneck"
    """Residual branch: two 3x3 convolutions, or 1x1, 3x3, 1x1."""
    width: int = 64
    """Width of the first stage; it doubles with every stage."""
    groups: int = 1
    """Groups of the bottleneck's 3x3 convolution (cardinality)."""
    group_width: int = 64
    """Width of one of those groups in a network of width 64."""
    stem: Literal["7x7", "deep", "3x3"] = "7x7"
    """7x7/2 and pooling, three 3x3 and pooling (C), or one 3x3 at full size (CIFAR)."""
    stride_at: Literal["1x1", "3x3"] = "3x3"
    """The bottleneck's convolution that strides: the first 1x1 (v1) or the 3x3 (v1.5, B)."""
    shortcut: Literal["A", "B", "C", "none"] = "B"
    """He 2016a, 3.3: A zero-padding, B projections where the shape changes, C everywhere."""
    avg_down: bool = False
    """Projections average-pool and then convolve without a stride (D)."""
    preact: bool = False
    """Norm and activation come before each convolution (v2)."""
    zero_gamma: bool = True
    """Every residual branch starts as zero: its last norm's scale (v2: its last kernel)."""
    kernel_init: Literal["kaiming_normal", "xavier_uniform", "small_normal", "zeros"] = (
        "kaiming_normal"
    )
    """Initialiser of the convolutions."""
    norm_momentum: float = 0.9
    """Share of the running statistics that a step keeps (torch's momentum is 1 minus this)."""
    norm_epsilon: float = 1e-5
    """Added to the variance under the square root."""
    drop_path: float = 0.0
    """Stochastic depth: chance to skip the last block; grows linearly from 0 at the first."""
    dropout: float = 0.0
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths {self.depths!r}: needs one positive number a stage")
        for field in ("width", "groups", "group_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)}: must be at least 1")
        for field in ("drop_path", "dropout", "norm_momentum"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)}: must be in [0, 1)")
        if not 0 < self.norm_epsilon < math.inf:
            raise ValueError(f"norm_epsilon {self.norm_epsilon}: must be positive")
        if self.stem == "deep" and self.width < 2:
            raise ValueError(f"width {self.width}: a deep stem starts with half of it; at least 2")
        if self.width * self.group_width < 64:
            raise ValueError(
                f"group_width {self.group_width}: leaves a group of width {self.width} nothing"
            )
        if self.drop_path and self.shortcut == "none":
            raise ValueError(f"drop_path {self.drop_path}: shortcut 'none' leaves no other path")
        if self.block == "basic" and (self.groups, self.group_width) != (1, 64):
            raise ValueError(
                f"groups {self.groups} x {self.group_width}: a basic block has none; "
                "block 'bottleneck' has"
            )
        if self.block == "basic" and self.stride_at == "1x1":
            raise ValueError("stride_at '1x1': a basic block has no 1x1; choose '3x3'")
        if self.avg_down and self.shortcut not in ("B", "C"):
            raise ValueError(f"avg_down: shortcut {self.shortcut!r} has no projection; 'B', 'C' do")

    def stem_convs(self) -> tuple[ConvPlan, ...]:
        """The stem's convolutions; the deep one is half as wide until its last."""
        half = self.width // 2
        return {
            "7x7": (ConvPlan(7, self.width, 2),),
            "deep": (ConvPlan(3, half, 2), ConvPlan(3, half), ConvPlan(3, self.width)),
            "3x3": (ConvPlan(3, self.width),),
        }[self.stem]

    @property
    def stem_pool(self) -> bool:
        """Whether a 3x3/2 max-pooling follows the stem."""
        return self.stem != "3x3"

    def branch(self, width: int, stride: int) -> tuple[ConvPlan, ...]:
        """The convolutions on the residual path of a block."""
        if self.block == "basic":
            return ConvPlan(3, width, stride), ConvPlan(3, width)
        inner = width * self.group_width // 64 * self.groups
        s1, s3 = (stride, 1) if self.stride_at == "1x1" else (1, stride)
        return (
            ConvPlan(1, inner, s1),
            ConvPlan(3, inner, s3, self.groups),
            ConvPlan(1, 4 * width),
        )

    def blocks(self) -> Iterator[BlockPlan]:
        """Every residual block in order; `stage` counts from 1."""
        features = self.stem_convs()[-1].features
        for stage, depth in enumerate(self.depths, start=1):
            width = self.width * 2 ** (stage - 1)
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                convs = self.branch(width, stride)
                reshapes = stride != 1 or features != convs[-1].features
                yield BlockPlan(stage, width, stride, convs, self._shortcut(reshapes))
                features = convs[-1].features

    def _shortcut(self, reshapes: bool) -> Literal["identity", "pad", "conv", "none"]:
        if self.shortcut == "none":
            return "none"
        if self.shortcut == "C" or (self.shortcut == "B" and reshapes):
            return "conv"
        return "pad" if reshapes else "identity"

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the images that the source trains on."""
        return 32 if self.stem == "3x3" else 224

    @property
    def features(self) -> int:
        """Channels of the backbone's last map."""
        return self.branch(self.width * 2 ** (len(self.depths) - 1), 1)[-1].features

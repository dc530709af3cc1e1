"""Convolutions and blocks as data: what `ResNetSpec.blocks` yields. Imports no JAX."""

from typing import Literal, NamedTuple


class ConvPlan(NamedTuple):
    """One convolution: square kernel, padded symmetrically by `dilation * (kernel // 2)`."""

    kernel: int
    features: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    blur: int = 0
    """Stride of the anti-aliasing filter after the convolution; 0: no filter."""


class BlockPlan(NamedTuple):
    """One residual block: its stage, residual branch and shortcut."""

    stage: int
    width: int
    stride: int
    dilation: int
    """Of the 3x3 convolutions. The first one of a stage has the dilation of the previous stage."""
    convs: tuple[ConvPlan, ...]
    shortcut: Literal["identity", "pad", "conv", "none"]
    projection: ConvPlan
    """The convolution of a "conv" shortcut."""
    drop_block: float

    @property
    def features(self) -> int:
        """Channels of the block's output."""
        return self.convs[-1].features

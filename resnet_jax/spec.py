"""The architecture of a network as data: `ResNetSpec` and `LeNetSpec`. Imports no JAX."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from resnet_jax.plans import BlockPlan, ConvPlan
from resnet_jax.spec_rules import check_rules, check_shares, check_starts
from resnet_jax.validate import check_fields

Block = Literal["basic", "bottleneck"]
Activation = Literal[
    "relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "hard_swish"
]

KernelInit = Literal[
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "normal",
    "small_normal",
    "zeros",
]


@dataclass(frozen=True)
class ResNetSpec:
    """All architecture options of a residual network, checked when the spec is made.

    Sources: He 2016a, "Deep Residual Learning" (arXiv:1512.03385); He 2016b, "Identity Mappings"
    (arXiv:1603.05027); Goyal 2017 (arXiv:1706.02677) for `zero_gamma`; He 2019, "Bag of Tricks"
    (arXiv:1812.01187) section 4 for the B, C and D variants. Other options cite their sources.

    Raises:
      ValueError: a value is not one of the field's choices, or the network cannot be built.
    """

    depths: tuple[int, ...]
    """Residual blocks in each stage. Every stage after the first halves the feature map."""
    block: Block = "bottleneck"
    """Residual branch: two 3x3 convolutions (basic), or 1x1, 3x3, 1x1 (bottleneck)."""
    stage_blocks: tuple[Block, ...] = ()
    """Block of each stage, in place of `block`, if the stages differ."""
    width: int = 64
    """Width of the first stage; it doubles with every stage."""
    stage_widths: tuple[int, ...] = ()
    """Width of each stage, if it does not double with every stage."""
    groups: int = 1
    """Groups of the bottleneck's 3x3 convolution (cardinality; Xie 2017, arXiv:1611.05431)."""
    group_width: int = 64
    """Width of each group in a network of width 64."""
    reduce_first: int = 1
    """Divides the width of the first convolution in each residual branch (SENet-154: 2)."""
    stem: Literal["7x7", "deep", "tiered", "3x3"] = "7x7"
    """7x7: 7x7/2; deep: three 3x3 (ResNet-C); tiered: three 3x3 with increasing widths (timm's t);
    3x3: 3x3/1 (CIFAR)."""
    stem_width: int | None = None
    """Output channels of the stem; None: `width`."""
    stem_pool: Literal["auto", "max", "zero_max", "conv", "fractional", "none"] = "auto"
    """Pooling after the stem. max: 3x3/2 max pooling; zero_max: the same, padded with zeros (BiT);
    conv: a 3x3/2 convolution (ResNet-RS); fractional: fractional max pooling (Graham 2014); auto:
    none after a 3x3 stem, else max."""
    stride_at: Literal["1x1", "3x3"] = "3x3"
    """Convolution of a bottleneck with the stride: the first 1x1 (v1), or the 3x3 (v1.5, B)."""
    shortcut: Literal["A", "B", "C", "none"] = "B"
    """Shortcuts of He 2016a, 3.3. A: zero padding; B: projections where the shape changes; C:
    projections in all blocks."""
    shortcut_kernel: int = 1
    """Kernel size of projections with a stride (SENet-154: 3). With avg_down, none has a stride."""
    avg_down: bool = False
    """In projections, average pooling and a 1x1 convolution replace the strided convolution (D)."""
    anti_alias: Literal["none", "avg", "blur"] = "none"
    """Strided convolutions of residual branches and the stem's pooling run at stride 1. After them,
    a 2x2 average (avg) or a binomial filter (blur) has the stride (Zhang 2019,
    arXiv:1904.11486)."""
    preact: bool = False
    """Pre-activation: norm and activation before each convolution (v2)."""
    activation: Activation = "relu"
    """Activation function, also in the stem. prelu: the slope of each channel is learned (He 2015,
    arXiv:1502.01852)."""
    activation_slope: float | None = None
    """Negative slope of leaky_relu (None: 0.01), and the first slopes of prelu (None: 0.25)."""
    attention: Literal["none", "se", "eca"] = "none"
    """At the end of each residual branch: squeeze-excite (Hu 2018, arXiv:1709.01507), or efficient
    channel attention (Wang 2020, arXiv:1910.03151)."""
    se_ratio: float = 1 / 16
    """Width of the squeeze-excite bottleneck, as a fraction of its input channels."""
    norm: Literal["batch", "group"] = "batch"
    """BatchNorm, or GroupNorm (Wu 2018, arXiv:1803.08494)."""
    norm_groups: int = 32
    """Groups of GroupNorm."""
    norm_momentum: float = 0.9
    """Fraction of the running statistics that a step keeps (1 minus the momentum of torch)."""
    norm_epsilon: float = 1e-5
    """Added to the variance under the square root."""
    weight_standardization: bool = False
    """Normalise kernels to mean 0 and variance 1 per output (Qiao 2019, arXiv:1903.10520)."""
    output_stride: Literal[32, 16, 8] = 32
    """Total stride. With 8 or 16, later stages dilate instead (Chen 2017, arXiv:1706.05587)."""
    zero_gamma: bool = True
    """Initialise the last norm's scale of each residual branch (v2: the last kernel) with zeros."""
    zero_conv: bool = False
    """Initialise the last kernel of each residual branch with zeros, in place of `zero_gamma`."""
    kernel_init: KernelInit = "kaiming_normal"
    """Initialiser of the convolutions: kaiming (He 2015), with variance 2 / fan; xavier (Glorot
    2010), with 2 / (fan_in + fan_out); normal, with `kernel_std`; small_normal, with 0.01."""
    kernel_fan: Literal["out", "in"] = "out"
    """Fan of the kaiming initialisers: out keeps the variance of gradients, in that of maps."""
    kernel_slope: float = 0.0
    """Negative slope a of the activation, for the kaiming initialisers: the variance is 2 / ((1 +
    a^2) fan) (He 2015, equation 15)."""
    kernel_std: float = 0.01
    """Standard deviation of kernel_init normal."""
    norm_bias: float = 0.0
    """First value of the norms' biases."""
    head_std: float | None = None
    """Standard deviation of the classifier's normal kernel (Goyal 2017, 5.1: 0.01). None: uniform
    in +-1/sqrt(features)."""
    head_bias: float = 0.0
    """First value of the classifier's biases: -log(K - 1) gives sigmoids of 1 / K (Lin 2017,
    arXiv:1708.02002, 4.1)."""
    drop_path: float = 0.0
    """Stochastic depth (Huang 2016, arXiv:1603.09382): probability of skipping the last block. It
    grows linearly from 0 at the first block."""
    drop_block: float = 0.0
    """DropBlock (Ghiasi 2018, arXiv:1810.12890): fraction of the last stage's feature maps that is
    dropped in squares. In the stage before, it is a quarter of this."""
    drop_block_size: int = 7
    """Side of DropBlock's squares, in pixels of the feature map."""
    block_dropout: float = 0.0
    """Dropout before a branch's last convolution (Zagoruyko 2016, arXiv:1605.07146, 2.4)."""
    dropout: float = 0.0
    """Dropout before the classifier."""
    drop_connect: float = 0.0
    """DropConnect (Wan 2013): probability of dropping each weight of the classifier in a step."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_rules(self)

    @property
    def stem_features(self) -> int:
        """Channels of the stem's output."""
        return self.width if self.stem_width is None else self.stem_width

    def stage_width(self, stage: int) -> int:
        """Width of a stage; stages are counted from 0."""
        return self.stage_widths[stage] if self.stage_widths else self.width * 2**stage

    def stage_block(self, stage: int) -> Block:
        """Kind of a stage's blocks; stages are counted from 0."""
        return self.stage_blocks[stage] if self.stage_blocks else self.block

    def stem_convs(self) -> tuple[ConvPlan, ...]:
        """The convolutions of the stem, in order."""
        width = self.stem_features
        first = {"deep": width // 2, "tiered": 3 * width // 8}.get(self.stem, width)
        if self.stem in ("deep", "tiered"):
            return ConvPlan(3, first, 2), ConvPlan(3, width // 2), ConvPlan(3, width)
        return (ConvPlan(7, width, 2) if self.stem == "7x7" else ConvPlan(3, width),)

    @property
    def pool(self) -> Literal["max", "zero_max", "conv", "fractional", "none"]:
        """The pooling after the stem: `stem_pool`, with "auto" resolved."""
        if self.stem_pool == "auto":
            return "none" if self.stem == "3x3" else "max"
        return self.stem_pool

    def branch(self, stage: int, stride: int, dilations: tuple[int, int]) -> tuple[ConvPlan, ...]:
        """The convolutions on the residual path of a block.

        Args:
          stage: counted from 0.
          stride: of the block.
          dilations: of the first and of the later 3x3 convolutions.
        """
        width, (first, rest) = self.stage_width(stage), dilations
        blurs = self.anti_alias != "none" and (stride == 2 or first != rest)
        s3, blur = (1, stride) if blurs else (stride, 0)
        if self.stage_block(stage) == "basic":
            inner = width // self.reduce_first
            return ConvPlan(3, inner, s3, 1, first, blur), ConvPlan(3, width, dilation=rest)
        inner = width * self.group_width // 64 * self.groups
        s1, s3 = (s3, 1) if self.stride_at == "1x1" else (1, s3)
        s1_dilates = self.stride_at == "1x1" and not blurs
        return (
            ConvPlan(1, inner // self.reduce_first, s1),
            # With the stride at the 1x1, the dilation that replaces it starts at this 3x3.
            ConvPlan(3, inner, s3, self.groups, rest if s1_dilates else first, blur),
            ConvPlan(1, 4 * width),
        )

    def blocks(self) -> Iterator[BlockPlan]:
        """The plans of all residual blocks in order; `stage` is counted from 1."""
        features = self.stem_features
        reached = (1 if self.stem == "3x3" else 2) * (1 if self.pool == "none" else 2)
        before = dilation = 1
        for stage, depth in enumerate(self.depths):
            stride = 2 if stage else 1
            if self.output_stride < 32 and reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            for _ in range(depth):
                convs = self.branch(stage, stride, (before, dilation))
                reshapes = stride != 1 or features != convs[-1].features
                yield BlockPlan(
                    stage=stage + 1,
                    width=self.stage_width(stage),
                    stride=stride,
                    dilation=dilation,
                    convs=convs,
                    shortcut=self._shortcut(reshapes),
                    projection=self._projection(convs[-1].features, stride, before, dilation),
                    drop_block=self.drop_block * self._drop_block_share(stage),
                )
                features, stride, before = convs[-1].features, 1, dilation

    def _drop_block_share(self, stage: int) -> float:
        return {1: 1.0, 2: 0.25}.get(len(self.depths) - stage, 0.0)

    def _projection(self, features: int, stride: int, before: int, dilation: int) -> ConvPlan:
        if self.avg_down or (stride == 1 and dilation == 1) or self.shortcut_kernel == 1:
            return ConvPlan(1, features, 1 if self.avg_down else stride)
        return ConvPlan(self.shortcut_kernel, features, stride, dilation=before)

    def _shortcut(self, reshapes: bool) -> Literal["identity", "pad", "conv", "none"]:
        if self.shortcut == "none":
            return "none"
        if self.shortcut == "C" or (self.shortcut == "B" and reshapes):
            return "conv"
        return "pad" if reshapes else "identity"

    @property
    def is_deep(self) -> bool:
        """Whether the network has 50 blocks or more, as ResNet-152 and CIFAR's ResNet-110 have.

        Without a loop over blocks, such networks compile slowly.
        """
        return sum(self.depths) >= 50

    @property
    def image_size(self) -> int:
        """Usual side of the images in pixels: 32 with a 3x3 stem, else 224."""
        return 32 if self.stem == "3x3" else 224

    @property
    def features(self) -> int:
        """Channels of the last feature map."""
        last = len(self.depths) - 1
        return (1 if self.stage_block(last) == "basic" else 4) * self.stage_width(last)


@dataclass(frozen=True)
class LeNetSpec:
    """LeNet-5 (LeCun 1998, section II.B), a baseline.

    Raises:
      ValueError: a value is not one of the field's choices.
    """

    activation: Activation = "tanh"
    """The non-linearity."""
    activation_slope: float | None = None
    """See `ResNetSpec`."""
    head_std: float | None = None
    """See `ResNetSpec`."""
    head_bias: float = 0.0
    """See `ResNetSpec`."""
    dropout: float = 0.0
    """Dropout before the classifier."""
    drop_connect: float = 0.0
    """DropConnect on the classifier; see `ResNetSpec`."""

    is_deep = False
    image_size = 32
    features = 84

    def __post_init__(self) -> None:
        check_fields(self)
        check_shares(self, ("dropout", "drop_connect"))
        check_starts(self)


Spec = ResNetSpec | LeNetSpec

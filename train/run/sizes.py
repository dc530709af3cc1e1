"""Checks of the image size and the batch size, before compilation."""

import math

import jax

from resnet_jax import ResNetSpec, get_spec
from train.config import ConfigError, RunConfig
from train.run.out_of_memory import usable
from train.run.parts import Run

# The memory of a training step over that of the outputs of its blocks: about 0.12 GiB per image, by
# the compiler's report for resnet50 at 224 pixels on a CPU.
_STEP = 12


def small_images(config: RunConfig) -> str | None:
    """A warning if images have fewer pixels on a side than the stride of the network, else None."""
    spec, size = get_spec(config.model.name, **config.model.changes), config.data.image_size
    if not isinstance(spec, ResNetSpec):
        return None
    stride = _stem_stride(spec) * math.prod(block.stride for block in spec.blocks())
    if size >= stride:
        return None
    return (
        f"data.image_size {size} is less than the stride of {config.model.name}, {stride} pixels: "
        "its last stages see a single pixel. Choose larger images or a network for small ones "
        "(resnet20_cifar)"
    )


def check_memory(run: Run) -> None:
    """Rejects a batch that is far too large for the devices. The compiler would do so much later.

    The outputs of all blocks are saved for the backward pass. If they alone exceed the memory of a
    device, the step cannot fit. A batch that passes may still be too large.

    Raises:
      ConfigError: the batch cannot fit.
    """
    config, devices = run.config, run.mesh.size
    local = jax.local_devices()
    available = usable() // (
        len(local) if local[0].platform == "cpu" else 1
    )  # CPUs share the memory
    image = block_outputs(config)
    need = image * (config.micro_batch_size // devices)
    if need <= available:
        return
    guess = max(available // (_STEP * image), 1) * devices * config.optim.accumulate
    raise ConfigError(
        f"batch_size {config.batch_size}: the outputs of the blocks of {config.model.name} alone "
        f"take {need / 2**30:.1f} GiB per device ({config.data.image_size} pixels, "
        f"{config.precision}), and {local[0].device_kind} has {available / 2**30:.1f} GiB per "
        f"device. Try --batch_size {guess}"
    )


def block_outputs(config: RunConfig) -> int:
    """Bytes of the outputs of all residual blocks for one image; 0 for LeNet."""
    spec = get_spec(config.model.name, **config.model.changes)
    if not isinstance(spec, ResNetSpec):
        return 0
    stride, values = _stem_stride(spec), 0
    for block in spec.blocks():
        stride *= block.stride
        values += (config.data.image_size // stride) ** 2 * block.convs[-1].features
    return values * (4 if config.precision == "fp32" else 2)


def _stem_stride(spec: ResNetSpec) -> int:
    pool = 1 if spec.pool == "none" else 2
    return pool * math.prod(conv.stride for conv in spec.stem_convs())

"""How signals and gradients pass through a network at its start, block by block.

The figures of a lecture on initialisation: if the deviations shrink or grow from block to block,
a deep network does not learn (Glorot 2010, figures 6 and 7; He 2015, arXiv:1502.01852, 2.2).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.block import Block
from resnet_jax.heads.classifier import Classifier
from resnet_jax.lenet import LeNet

Maps = dict[str, jax.Array]


class BlockStats(NamedTuple):
    """Standard deviations over the output of a block."""

    activation: float
    gradient: float


def block_outputs(
    model: Classifier, variables: Any, images: jax.Array, *, train: bool, moved: Maps | None = None
) -> tuple[jax.Array, Maps]:
    """The logits, and the output of each block by its name, such as "stage1/block1".

    Args:
      model: without `scan`. In a LeNet, each convolution is a block.
      variables: of the model.
      images: float [B, H, W, C].
      train: whether BatchNorm normalises by the batch; otherwise by its running averages, which at
        the start do nothing.
      moved: what is added to the output of each block; None: nothing.
    """
    kind = nn.Conv if isinstance(model.backbone, LeNet) else Block
    maps: Maps = {}

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        found = call(*args, **kwargs)
        if not isinstance(context.module, kind) or context.method_name != "__call__":
            return found
        name = "/".join(context.module.path[1:])
        maps[name] = found if moved is None else found + moved[name]
        return maps[name]

    with nn.intercept_methods(record):
        rngs = {"dropout": jax.random.key(0)}
        logits, _ = model.apply(variables, images, train=train, mutable=["batch_stats"], rngs=rngs)
    return logits, maps


def init_stats(
    model: Classifier, variables: Any, images: jax.Array, labels: jax.Array, *, train: bool = True
) -> dict[str, BlockStats]:
    """Deviations of each block's output and of the gradient of the loss with respect to it.

    The loss is the cross-entropy, summed over the examples.

    Args:
      model, variables, images, train: as in `block_outputs`.
      labels: int32 [B].

    >>> from resnet_jax import create_model
    >>> model = create_model("resnet8_cifar", 3, width=8)
    >>> images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    >>> variables = model.init(jax.random.key(1), images, train=False)
    >>> list(init_stats(model, variables, images, jnp.zeros(2, jnp.int32)))
    ['stage1/block1', 'stage2/block1', 'stage3/block1']
    """

    def loss(moved: Maps, variables: Any) -> tuple[jax.Array, Maps]:
        logits, maps = block_outputs(model, variables, images, train=train, moved=moved)
        likelihoods = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(likelihoods, labels[:, None], 1).sum(), maps

    def run(variables: Any) -> tuple[Maps, Maps]:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.grad(loss, has_aux=True)(zeros, variables)

    _, shapes = jax.eval_shape(lambda v: block_outputs(model, v, images, train=train), variables)
    gradients, maps = jax.jit(run, compiler_options=_quick())(variables)
    return {name: BlockStats(_std(maps[name]), _std(gradients[name])) for name in maps}


def _quick() -> dict[str, Any] | None:
    """Less optimisation on a CPU: the program runs once, and XLA would take most of the time."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def _std(x: jax.Array) -> float:
    return float(np.asarray(x, np.float64).std())  # in float32, the squares may underflow

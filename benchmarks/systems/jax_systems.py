"""Training steps in JAX: ours, from its recipe, and networks of other libraries.

The others train as in their examples, on normalised float images: cross entropy, Nesterov momentum
and L2 decay of the kernels with optax, with donated state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from benchmarks.workloads import Unsupported, facts, random_batch
from train.config import RunConfig
from train.distributed.mesh import make_mesh, put_batch
from train.learn.model import make_model
from train.run.memory import abstract_batch
from train.run.parts import Run

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


@dataclass(frozen=True)
class Program:
    """A jitted step (state, batch) -> (state, out), with shapes, shardings and arrays."""

    step: Any
    abstract_state: Any
    abstract_batch: Any
    state: Callable[[], Any]
    batch: Callable[[], Any]
    loss: Callable[[Any], Any]
    """Computes the mean loss from `out`."""


def ours(config: RunConfig, devices: Any, **network: Any) -> Program:
    """The complete step of the recipe: normalisation, loss, metrics, update.

    `network` has more arguments of `create_model`.
    """
    run = Run(config, mesh=make_mesh(devices, fsdp=config.mesh.fsdp), splits=facts(config))
    run.model = make_model(run.config, len(run.splits.train.class_names), **network)

    def batch() -> Any:
        images, labels = random_batch(run.config, len(run.splits.train.class_names))
        images = images[..., : run.splits.train.channels]
        mask = np.ones(len(labels), np.float32)
        return put_batch({"image": images, "label": labels, "mask": mask}, run.mesh)

    return Program(
        run.train_step,
        run.abstract_state,
        abstract_batch(run),
        run.new_state,
        batch,
        lambda sums: sums["loss"] / sums["count"],
    )


class Network(NamedTuple):
    """A network of another library, in training mode.

    init(key, images) -> (params, stats); apply(params, stats, images) -> (logits, stats).
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


def _dtype(config: RunConfig) -> Any:
    return jnp.bfloat16 if config.precision == "bf16" else jnp.float32


def flax(config: RunConfig, classes: int) -> Network:
    """Plain linen, as in Flax's ImageNet example: nn.Conv, nn.BatchNorm, nn.max_pool."""
    name, dtype = config.model.name, _dtype(config)
    cifar = name == "resnet20_cifar"
    if not cifar and name not in DEPTHS:
        raise Unsupported(f"{name}: choose from {', '.join(DEPTHS)}, resnet20_cifar")
    conv = partial(nn.Conv, use_bias=False, dtype=dtype)
    norm = partial(nn.BatchNorm, use_running_average=False, momentum=0.9, dtype=dtype)

    class Block(nn.Module):
        features: int
        stride: int
        bottleneck: bool

        @nn.compact
        def __call__(self, x: Any) -> Any:
            kernels = (1, 3, 1) if self.bottleneck else (3, 3)
            y = x
            for i, kernel in enumerate(kernels):
                last = i == len(kernels) - 1
                stride = self.stride if i == (1 if self.bottleneck else 0) else 1
                width = self.features * (4 if self.bottleneck and last else 1)
                y = norm()(conv(width, (kernel, kernel), (stride, stride))(y))
                y = y if last else nn.relu(y)
            if x.shape != y.shape:
                x = norm()(conv(y.shape[-1], (1, 1), (self.stride, self.stride))(x))
            return nn.relu(x + y)

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = conv(16, (3, 3))(x) if cifar else conv(64, (7, 7), (2, 2), padding=[(3, 3)] * 2)(x)
            x = nn.relu(norm()(x))
            x = x if cifar else nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            for stage, depth in enumerate((3, 3, 3) if cifar else DEPTHS[name]):
                for i in range(depth):
                    features = (16 if cifar else 64) * 2**stage
                    x = Block(features, 2 if stage and not i else 1, name == "resnet50")(x)
            return nn.Dense(classes)(x.mean((1, 2)).astype(jnp.float32))

    return _linen(Classifier())


def _linen(model: nn.Module) -> Network:
    def init(key: Any, x: Any) -> Any:
        variables = model.init(key, x)
        return variables["params"], variables["batch_stats"]

    def apply(params: Any, stats: Any, x: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, x, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    return Network(jax.jit(init), apply)


def jax_resnet(config: RunConfig, classes: int) -> Network:
    """The package jax-resnet."""
    import jax_resnet as library

    networks = {"resnet18": library.ResNet18, "resnet50": library.ResNet50}
    if config.model.name not in networks:
        raise Unsupported(f"{config.model.name}: choose from {', '.join(networks)}")
    dtype = _dtype(config)
    conv = partial(nn.Conv, dtype=dtype)
    norm = partial(nn.BatchNorm, momentum=0.9, dtype=dtype)
    return _linen(networks[config.model.name](n_classes=classes, conv_cls=conv, norm_cls=norm))


def haiku(config: RunConfig, classes: int) -> Network:
    """dm-haiku's ResNet (v1.5); bfloat16 by its policies, as in its example."""
    import haiku as hk
    import jmp

    networks = {"resnet18": hk.nets.ResNet18, "resnet50": hk.nets.ResNet50}
    if config.model.name not in networks:
        raise Unsupported(f"{config.model.name}: choose from {', '.join(networks)}")
    make = networks[config.model.name]
    if config.precision == "bf16":
        hk.mixed_precision.set_policy(make, jmp.get_policy("p=f32,c=bf16,o=f32"))
        hk.mixed_precision.set_policy(hk.BatchNorm, jmp.get_policy("p=f32,c=f32,o=bf16"))
    net = hk.transform_with_state(
        lambda x: make(classes, bn_config={"decay_rate": 0.9})(x, is_training=True)
    )
    key = jax.random.key(0)
    return Network(jax.jit(net.init), lambda params, stats, x: net.apply(params, stats, key, x))


def keras(config: RunConfig, classes: int) -> Network:
    """Keras 3's ResNet-50 on JAX: v1, with biases and the stride at the 1x1.

    It has 6 % fewer multiply-adds.
    """
    import os

    os.environ["KERAS_BACKEND"] = "jax"
    import keras as library

    if config.model.name != "resnet50":
        raise Unsupported(f"{config.model.name}: choose resnet50")
    if config.precision == "bf16":
        library.config.set_dtype_policy("mixed_bfloat16")
    shape = (config.data.image_size, config.data.image_size, 3)
    model = library.applications.ResNet50(
        weights=None, classes=classes, classifier_activation=None, input_shape=shape
    )

    def init(key: Any, x: Any) -> Any:
        kinds = model.trainable_variables, model.non_trainable_variables
        return tuple([variable.value for variable in variables] for variables in kinds)

    def apply(params: Any, stats: Any, x: Any) -> Any:
        return model.stateless_call(params, stats, x, training=True)

    return Network(init, apply)


def other(network: Callable[..., Network], config: RunConfig, devices: Any) -> Program:
    """A training step for another library's network."""
    classes = len(facts(config).train.class_names)
    init, apply = network(config, classes)
    optim = config.optim
    tx = optax.chain(
        optax.add_decayed_weights(
            optim.weight_decay, lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
        ),
        optax.sgd(optim.lr, momentum=optim.momentum, nesterov=optim.nesterov),
    )

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        params, stats, opt_state = state
        images, labels = batch

        def loss(params: Any) -> tuple[Any, Any]:
            logits, new = apply(params, stats, images.astype(_dtype(config)))
            logits = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), value

    where = SingleDeviceSharding(devices[0])
    size = config.data.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def first(key: Any, image: Any) -> Any:
        params, stats = init(key, image)
        return params, stats, tx.init(params)

    def state() -> Any:
        return jax.device_put(first(jax.random.key(0, impl="rbg"), jnp.zeros(image.shape)), where)

    def batch() -> Any:
        images, labels = random_batch(config, classes)
        return jax.device_put((np.float32(images) / 64 - 2, labels), where)

    shapes = (
        jax.eval_shape(first, jax.random.key(0, impl="rbg"), image),
        (
            jax.ShapeDtypeStruct((config.batch_size, *image.shape[1:]), jnp.float32),
            jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
        ),
    )
    held, data = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
    )
    return Program(step, held, data, state, batch, lambda loss: loss)


BUILDERS: dict[str, Callable[[RunConfig, Any], Program]] = {
    "ours": ours,
    "ours-plain-norm": partial(ours, fuse_norm=False),
    "flax": partial(other, flax),
    "haiku": partial(other, haiku),
    "jax-resnet": partial(other, jax_resnet),
    "keras": partial(other, keras),
}

"""One training step of each system, built alike: SGD with momentum, cross entropy, random data.

A stepper is a function of nothing that does one whole step (forward, backward, update) on data that
are on the device already, waits for it, and returns the loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Stepper = Callable[[], float]
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def make_batch(batch: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 [batch, size, size, 3] and int32 [batch]; random, so that nothing can be skipped."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    return images, rng.integers(0, classes, batch).astype(np.int32)


def ours(name: str, batch: int, size: int, classes: int, precision: str) -> Stepper:
    """This project's network in its own train step."""
    import jax
    import jax.numpy as jnp
    import optax

    from resnet_jax import create_model
    from train.config import MixConfig
    from train.mesh import make_mesh, put_batch
    from train.prepare import make_prepare
    from train.state import create_state, init_variables
    from train.step import make_train_step
    from train.tasks import Classify

    mesh = make_mesh(jax.devices()[:1]) if len(jax.devices()) > 1 else make_mesh()
    model = create_model(name, classes, dtype=jnp.bfloat16 if precision == "bf16" else jnp.float32)
    tx = optax.sgd(0.1, momentum=0.9)
    prepare = make_prepare(classes, mean=(0.5,), std=(0.25,), mix=MixConfig())
    step = make_train_step(model, Classify(), tx, prepare, mesh, seed=0, ema_decay=0.0)
    state = create_state(init_variables(model, size, seed=0), tx, mesh, ema=False)
    images, labels = make_batch(batch, size, classes)
    data = {"image": np.uint8(127 + 20 * images), "label": labels, "mask": np.ones(batch, "f4")}
    return _jax_stepper(step, state, put_batch(data, mesh), lambda sums: sums["loss"])


def _jax_stepper(step: Any, state: Any, batch: Any, loss: Callable[[Any], Any]) -> Stepper:
    import jax

    held = [state]

    def run() -> float:
        held[0], out = step(held[0], batch)
        jax.block_until_ready((held[0], out))
        return float(loss(out))

    return run


def _functional(
    init: Callable[..., Any], apply: Callable[..., Any], batch: Any, dtype: Any
) -> Stepper:
    """A step around apply(params, stats, images) -> (logits, stats), as the frameworks show it."""
    import jax
    import optax

    images, labels = map(jax.device_put, batch)
    tx = optax.sgd(0.1, momentum=0.9)

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        params, stats, opt_state = state
        images, labels = batch

        def loss(params: Any) -> tuple[Any, Any]:
            logits, new = apply(params, stats, images.astype(dtype))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), value

    params, stats = jax.jit(init)(jax.random.key(0, impl="rbg"), images[:1])
    return _jax_stepper(step, (params, stats, tx.init(params)), (images, labels), lambda x: x)


def linen(name: str, batch: int, size: int, classes: int, precision: str) -> Stepper:
    """Plain linen, written as Flax's imagenet example is: nn.Conv, nn.BatchNorm, nn.max_pool."""
    import flax.linen as nn
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    conv = partial(nn.Conv, use_bias=False, dtype=dtype)

    class Block(nn.Module):
        features: int
        stride: int
        bottleneck: bool

        @nn.compact
        def __call__(self, x: Any) -> Any:
            norm = partial(nn.BatchNorm, use_running_average=False, momentum=0.9, dtype=dtype)
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

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            cifar = name == "resnet20_cifar"
            x = conv(16, (3, 3))(x) if cifar else conv(64, (7, 7), (2, 2), padding=[(3, 3)] * 2)(x)
            norm = nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=dtype)
            x = nn.relu(norm(x))
            x = x if cifar else nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            for stage, depth in enumerate((3, 3, 3) if cifar else DEPTHS[name]):
                for i in range(depth):
                    features = (16 if cifar else 64) * 2**stage
                    x = Block(features, 2 if stage and not i else 1, name == "resnet50")(x)
            return nn.Dense(classes)(x.mean((1, 2)).astype(jnp.float32))

    model = Network()

    def init(key: Any, x: Any) -> Any:
        variables = model.init(key, x)
        return variables["params"], variables["batch_stats"]

    def apply(params: Any, stats: Any, x: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, x, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    return _functional(init, apply, make_batch(batch, size, classes), dtype)


def haiku(name: str, batch: int, size: int, classes: int, precision: str) -> Stepper:
    """dm-haiku's own ResNet."""
    import haiku as hk
    import jax
    import jax.numpy as jnp

    networks = {"resnet18": hk.nets.ResNet18, "resnet50": hk.nets.ResNet50}
    if name not in networks or precision != "fp32":
        raise SystemExit(f"haiku has no {precision} {name} here")
    net = hk.transform_with_state(lambda x: networks[name](classes)(x, is_training=True))
    return _functional(
        net.init,
        lambda params, stats, x: net.apply(params, stats, jax.random.key(0), x),
        make_batch(batch, size, classes),
        jnp.float32,
    )


def torch(name: str, batch: int, size: int, classes: int, precision: str) -> Stepper:
    """torchvision's ResNet (CIFAR: the same blocks as ours) in torch, eager, channels_last."""
    return _torch(name, batch, size, classes, precision, compiled=False)


def torch_compile(name: str, batch: int, size: int, classes: int, precision: str) -> Stepper:
    """The same through torch.compile."""
    return _torch(name, batch, size, classes, precision, compiled=True)


def _torch(
    name: str, batch: int, size: int, classes: int, precision: str, *, compiled: bool
) -> Stepper:
    import torch
    from torch.nn import functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _torch_model(name, classes).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images, labels = make_batch(batch, size, classes)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long().to(device)
    forward = torch.compile(model) if compiled else model

    def run() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits

    return run


def _torch_model(name: str, classes: int) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    if name != "resnet20_cifar":
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):  # they do not load beside a CPU-only torch, and are not used
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        return getattr(torchvision.models, name)(num_classes=classes)

    class Block(nn.Module):
        def __init__(self, before: int, width: int):
            super().__init__()
            self.more, self.stride = width - before, 1 if width == before else 2
            self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.more:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
            return F.relu(x + y)

    blocks = [Block(b, w) for b, w in ((16, 16),) * 3 + ((16, 32),) + ((32, 32),) * 2]
    blocks += [Block(b, w) for b, w in ((32, 64), (64, 64), (64, 64))]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*stem, *blocks, *head)


PEERS: dict[str, Callable[..., Stepper]] = {
    "ours": ours,
    "linen": linen,
    "haiku": haiku,
    "torch": torch,
    "torch_compile": torch_compile,
}

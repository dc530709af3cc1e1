"""Training steps of torchvision: eager or with torch.compile, channels_last, autocast."""

import itertools
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.systems.torchvision_import import import_torchvision
from benchmarks.workloads import Unsupported, facts, random_batch
from train.config import RunConfig


class TorchStepper:
    """A `Stepper` of torch."""

    def __init__(self, config: RunConfig, *, compiled: bool) -> None:
        since = time.perf_counter()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, the default of JAX
        classes = len(facts(config).train.class_names)
        self._model = _model(config.model.name, classes)
        self._model.to(self._device, memory_format=torch.channels_last).train()
        self._forward = torch.compile(self._model) if compiled else self._model
        self._optimizer = _optimizer(self._model, config)
        images, labels = random_batch(config, classes)
        x = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / 64 - 2
        self._x = x.contiguous(memory_format=torch.channels_last)
        self._y = torch.from_numpy(labels).long().to(self._device)
        self._half = config.precision == "bf16"
        self.advance(1)
        self.facts: dict[str, Any] = {"first_step_seconds": time.perf_counter() - since}

    def advance(self, count: int) -> float:
        for _ in range(count):
            self._optimizer.zero_grad()
            with torch.autocast(self._device, torch.bfloat16, enabled=self._half):
                loss = F.cross_entropy(self._forward(self._x), self._y)
            loss.backward()
            self._optimizer.step()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    def end(self) -> dict[str, Any]:
        if self._device == "cpu":
            return {"device": "cpu"}
        return {
            "device": torch.cuda.get_device_name(),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(),
        }


def _optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """SGD with the recipe's options, fused; only kernels have weight decay."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optim = config.optim
    return torch.optim.SGD(
        [{"params": kernels, "weight_decay": optim.weight_decay}, {"params": others}],
        optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        fused=True,
    )


class _Block(nn.Module):
    """The block of a CIFAR network, which torchvision does not have."""

    def __init__(self, before: int, width: int) -> None:
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


def _model(name: str, classes: int) -> nn.Module:
    if name != "resnet20_cifar":
        models = import_torchvision().models
        if not hasattr(models, name):
            raise Unsupported(f"{name}: torchvision has no such network")
        return getattr(models, name)(num_classes=classes)
    widths = (16, *(16,) * 3, *(32,) * 3, *(64,) * 3)
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [_Block(before, width) for before, width in itertools.pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*stem, *blocks, *head)

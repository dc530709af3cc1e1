"""torchvision and timm, as the networks here are compared with them. Needs both, and torch."""

from typing import Any

import numpy as np
import torch

# The binary operators of torchvision do not load beside a CPU-only torch; no ResNet uses them.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402

from tests.parity.fill import fill  # noqa: E402

PACKAGES = (torch, torchvision, timm)
TORCHVISION = [
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if name.startswith(("resnet", "resnext", "wide_resnet"))
]


def timm_names(module: str) -> list[str]:
    """What timm registers in a file of models: "resnet" or "resnetv2"."""
    return sorted(timm.list_models(module=module))


def create(name: str, source: str, **options: Any) -> torch.nn.Module:
    """A network of `source` ("torchvision" or "timm"), filled, in evaluation mode."""
    with torch.device("meta"):
        if source == "torchvision":
            model = getattr(torchvision.models, name)(**options)
        else:
            model = timm.create_model(name, **options)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model = model.to_empty(device="cpu")
    for module in model.modules():  # filters that are no part of the state dict
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    model.load_state_dict({key: torch.from_numpy(fill(key, s)) for key, s in shapes.items()})
    return model.eval()


def nchw(x: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] -> torch's [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, H, W, C]."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def pyramid(model: torch.nn.Module, x: torch.Tensor) -> list[np.ndarray]:
    """c1 ... c5, [B, H, W, C] each."""
    if isinstance(model, torchvision.models.ResNet):
        levels = [model.relu(model.bn1(model.conv1(x)))]
        y = model.maxpool(levels[0])
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            y = layer(y)
            levels.append(y)
    else:
        levels = model.forward_intermediates(x, norm=True, intermediates_only=True)
    return [nhwc(level) for level in levels]

"""What torchvision and timm make of the filled networks, kept, and made again by

    python -m tests.parity.goldens

which needs both, and torch (CONTRIBUTING has the installation). About four minutes.
"""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from resnet_jax.spec import Activation
from resnet_jax.zoo import ZOO

FOLDER = Path(__file__).parent.parent / "goldens"
JSON, NPZ = FOLDER / "parity.json", FOLDER / "parity.npz"
SAMPLES = 40  # of each level of the pyramid

LEFT_OUT = {
    "ecaresnet50d_pruned": "pruned: each layer has another width",
    "ecaresnet101d_pruned": "pruned: each layer has another width",
    "resnetv2_50d_evos": "the EvoNorm experiment",
    "resnetv2_50d_frn": "the filter-response-norm experiment",
}

# Options that timm has for all names, and ours.
# timm's PReLU has one slope for all channels.
ACTIVATIONS = [name for name in get_args(Activation) if name != "prelu"]
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{
        f"{name} at {stride}": (name, {"output_stride": stride}, {"output_stride": stride})
        for name, stride in [
            ("resnet18", 8),
            ("resnet50d", 16),
            ("resnet50d", 8),
            ("resnext50_32x4d", 8),
            ("resnetblur50", 8),
            ("resnetaa50", 16),
            ("senet154", 8),
            ("resnetv2_18d", 8),
            ("resnetv2_50", 8),
            ("resnetv2_50x1_bit", 16),
        ]
    },
    **{
        f"test_resnet with {act}": ("test_resnet", {"act_layer": act}, {"activation": act})
        for act in ACTIVATIONS
    },
    "resnetv2_50 with gelu": ("resnetv2_50", {"act_layer": "gelu"}, {"activation": "gelu"}),
}


def size(name: str) -> tuple[int, int]:
    """Height and width of the image: an odd width shows where padding and pools round.

    Averaging strides leave out the odd pixel that the shortcut keeps: timm cannot add the two.
    """
    return (64, 96) if getattr(ZOO[name], "anti_alias", "") == "avg" else (64, 75)


def sample(level: np.ndarray) -> np.ndarray:
    """Values at fixed places of [1, H, W, C], from the first to the last."""
    flat = level.ravel()
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(int)]


def make() -> None:
    """Writes the goldens."""
    import torch

    from tests.parity import torch_reference as reference
    from tests.parity.fill import images

    sources = {
        "torchvision": ("torchvision", reference.TORCHVISION),
        "timm resnet.py": ("timm", reference.timm_names("resnet")),
        "timm resnetv2.py": ("timm", reference.timm_names("resnetv2")),
    }
    wanted = {
        f"{source}/{name}": (file, name, {})
        for file, (source, names) in sources.items()
        for name in names
    }
    wanted |= {f"timm/{key}": ("", name, options) for key, (name, options, _) in VARIANTS.items()}
    arrays: dict[str, np.ndarray] = {}
    networks: dict[str, dict[str, Any]] = {}
    for key, (file, name, options) in wanted.items():
        networks[key] = {"file": file}
        if name in LEFT_OUT:
            continue
        model = reference.create(name, key.split("/")[0], **options)
        x = reference.nchw(images(*size(name)))
        with torch.no_grad():
            arrays[f"{key}/logits"] = model(x)[0].numpy()
            levels = reference.pyramid(model, x)
        arrays[f"{key}/pyramid"] = np.stack([sample(level) for level in levels])
        networks[key] |= {
            "parameters": sum(p.numel() for p in model.parameters()),
            "pyramid": [list(level.shape[1:]) for level in levels],
        }
        if key.startswith("timm/"):
            networks[key]["image_size"] = model.default_cfg["input_size"][-1]
    versions = {package.__name__: package.__version__ for package in reference.PACKAGES}
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in networks.items())
    JSON.write_text(f'{{"versions": {json.dumps(versions)},\n "networks": {{\n{rows}\n}}}}\n')
    np.savez_compressed(NPZ, **arrays)


if __name__ == "__main__":
    make()

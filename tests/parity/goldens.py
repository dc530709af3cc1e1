"""What torchvision and timm make of the filled networks, kept, and made again by

    python -m tests.parity.goldens

which needs both, and torch (CONTRIBUTING says how to install them). About four minutes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.zoo import ZOO

FOLDER = Path(__file__).parent.parent / "goldens"
JSON, NPZ = FOLDER / "parity.json", FOLDER / "parity.npz"
SAMPLES = 40  # of each level of the pyramid

LEFT_OUT = {
    "ecaresnet50d_pruned": "pruned: each layer has a width of its own",
    "ecaresnet101d_pruned": "pruned: each layer has a width of its own",
    "resnetv2_50d_evos": "the EvoNorm experiment",
    "resnetv2_50d_frn": "the filter-response-norm experiment",
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
    import timm
    import torch
    import torchvision

    from tests.parity import torch_reference as reference
    from tests.parity.fill import images

    sources = {
        "torchvision": ("torchvision", reference.TORCHVISION),
        "timm resnet.py": ("timm", reference.timm_names("resnet")),
        "timm resnetv2.py": ("timm", reference.timm_names("resnetv2")),
    }
    arrays: dict[str, np.ndarray] = {}
    networks: dict[str, dict[str, Any]] = {}
    for file, (source, names) in sources.items():
        for name in names:
            networks[f"{source}/{name}"] = {"file": file}
            if name in LEFT_OUT:
                continue
            model = reference.create(name, source)
            x = reference.nchw(images(*size(name)))
            with torch.no_grad():
                arrays[f"{source}/{name}/logits"] = model(x)[0].numpy()
                levels = reference.pyramid(model, x)
            arrays[f"{source}/{name}/pyramid"] = np.stack([sample(level) for level in levels])
            networks[f"{source}/{name}"] |= {
                "parameters": sum(p.numel() for p in model.parameters()),
                "pyramid": [list(level.shape[1:]) for level in levels],
            }
            if source == "timm":
                networks[f"timm/{name}"]["image_size"] = model.default_cfg["input_size"][-1]
    versions = {package.__name__: package.__version__ for package in (torch, torchvision, timm)}
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in networks.items())
    JSON.write_text(f'{{"versions": {json.dumps(versions)},\n "networks": {{\n{rows}\n}}}}\n')
    np.savez_compressed(NPZ, **arrays)


if __name__ == "__main__":
    make()

"""Published weights of timm, from the Hugging Face hub or a local folder."""

import http.client
import json
import os
import ssl
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Literal

from resnet_jax import zoo
from resnet_jax.home import expand
from resnet_jax.spec import ResNetSpec
from resnet_jax.validate import check_fields
from resnet_jax.weights.files import WeightsError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of images for a network with published weights.

    Raises:
      ValueError: a value is not one of the field's choices, or out of range.
    """

    size: int = 224
    """Side of the square view, in pixels."""
    crop_fraction: float = 0.875
    """The short side is resized to size / crop_fraction; then the centre is cropped."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter for resizing, with antialiasing as in PIL."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, for pixels scaled to 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, for pixels scaled to 0..1."""

    def __post_init__(self) -> None:
        check_fields(self, "preprocessing ")
        rules = {
            "size": (self.size >= 1, "must be at least 1"),
            "crop_fraction": (0 < self.crop_fraction <= 1, "must be in (0, 1]"),
            "mean": (len(self.mean) in (1, 3), "needs one value, or three for RGB"),
            "std": (len(self.std) in (1, 3), "needs one value, or three for RGB"),
        }
        for name, (good, rule) in rules.items():
            if not good:
                raise ValueError(f"preprocessing {name} {getattr(self, name)!r}: {rule}")
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing std {self.std!r}: must be positive")


def load_pretrained(
    name: str,
    tag: str,
    num_classes: int | None = None,
    *,
    head: Literal["keep", "reset"] = "keep",
) -> tuple[dict[str, Any], Preprocessing]:
    """Loads the weights that timm publishes as `name.tag`, and their preprocessing.

    Places are tried in this order: the folder `name.tag` in `$RESNET_JAX_WEIGHTS` (default
    ~/.cache/resnet-jax/weights), with model.safetensors and config.json; the cache of the Hugging
    Face hub; the hub itself (`pip install -e '.[hub]'`).

    Args:
      name: one of `list_models()` that timm has.
      tag: of the weights, such as "a1_in1k".
      num_classes: outputs of the head; None: as published.
      head: see `load_weights`.

    Returns:
      The variables (see `load_weights`) and the preprocessing of images.

    Raises:
      WeightsError: the files are unavailable (the message says where to put them), or do not fit
        the network.
      ValueError: unknown name.
    """
    from resnet_jax.weights.convert import (
        load_weights,
    )  # imports JAX, which the rest of this file does not need

    zoo.get_spec(name)
    repository = f"{name}.{tag}"
    weights, config = (_find(repository, file) for file in ("model.safetensors", "config.json"))
    preprocessing, published = read_config(config, name)
    if num_classes is None and published < 1:
        raise WeightsError(
            f"{config}: published without a head; head='reset' with num_classes=... initialises one"
        )
    classes = published if num_classes is None else num_classes
    return load_weights(weights, name, classes, head=head), preprocessing


def published_preprocessing(name: str, tag: str) -> Preprocessing:
    """The preprocessing of the weights `name.tag`. Raises the errors of `load_pretrained`."""
    zoo.get_spec(name)
    return read_config(_find(f"{name}.{tag}", "config.json"), name)[0]


def read_config(path: Path, name: str) -> tuple[Preprocessing, int]:
    """The preprocessing and the number of classes in the config.json of timm's weights.

    Raises:
      WeightsError: it is not such a file, or it has unsupported preprocessing.
    """
    fallback = default_preprocessing(name)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        given = content.get("pretrained_cfg", content)
        preprocessing = Preprocessing(
            size=given["input_size"][-1],
            crop_fraction=given.get("crop_pct", fallback.crop_fraction),
            interpolation=given.get("interpolation", fallback.interpolation),
            mean=given.get("mean", fallback.mean),
            std=given.get("std", fallback.std),
        )
        classes = content.get("num_classes", given.get("num_classes", zoo.num_classes(name)))
        return preprocessing, index(classes)
    except (OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not the config.json of timm's weights ({error!r})") from error


def default_preprocessing(name: str) -> Preprocessing:
    """The preprocessing of a network's weights without a config.json.

    As in torchvision: bilinear, crop fraction 0.875, ImageNet's mean and standard deviation. timm's
    v2 networks have inputs in -1..1 instead. Networks for 32x32 images have no crop.
    """
    spec, size = zoo.get_spec(name), zoo.image_size(name)
    if spec.image_size == 32:
        return Preprocessing(size=size, crop_fraction=1.0)
    if isinstance(spec, ResNetSpec) and spec.preact and spec.image_size == 224:
        return Preprocessing(size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Preprocessing(size=size)


def _find(repository: str, file: str) -> Path:
    own: Path | None
    try:
        root = expand(os.environ.get("RESNET_JAX_WEIGHTS") or "~/.cache/resnet-jax/weights")
        own = root / repository / file
        where = f"into {own.parent}"
    except ValueError:  # no home directory, so no default
        own, where = None, f"into a folder {repository} under $RESNET_JAX_WEIGHTS"
    if own and own.is_file():
        return own
    try:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

        kept = try_to_load_from_cache(f"timm/{repository}", file)
        if isinstance(kept, str):
            return Path(kept)
        if not constants.HF_HUB_OFFLINE and (why := no_answer(constants.ENDPOINT)):
            reason = f"no connection to {constants.ENDPOINT}: {why}"
        else:
            return Path(hf_hub_download(f"timm/{repository}", file))
    except ImportError:
        reason = "huggingface_hub is not installed: pip install -e '.[hub]'"
    except Exception as error:  # no such repository, full disk, ...: of many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    raise WeightsError(
        f"timm/{repository} cannot be fetched from the Hugging Face hub ({reason}). "
        f"Put its model.safetensors and config.json {where}"
    )


def no_answer(url: str, seconds: float = 2.5) -> str | None:
    """The reason why a web server does not answer within `seconds`; None: it answers.

    The hub's library tries for half a minute and more. A name server may take as long, and its
    query has no timeout; so the request runs in a thread.
    """
    failures: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                pass
        except OSError as error:
            why = getattr(error, "reason", error)
            # An error page is an answer. The hub's library may know other certificates.
            if not isinstance(error, urllib.error.HTTPError) and not isinstance(why, ssl.SSLError):
                failures.append(getattr(why, "strerror", None) or str(why) or repr(why))
        except (http.client.HTTPException, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return f"no answer within {seconds:g} s" if thread.is_alive() else "".join(failures) or None

"""Conversion of weights between files (torchvision, timm, resnet-jax) and variables."""

import math
import os
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import zoo
from resnet_jax.heads.classifier import Classifier, create_model
from resnet_jax.scan import unstack_blocks
from resnet_jax.weights.files import Needed, Tensors, WeightsError, read_tensors
from resnet_jax.weights.torch_names import own_layout, paths, torch_layout

Variables = dict[str, Any]


def load_weights(
    path: str | os.PathLike[str],
    name: str,
    num_classes: int | None = None,
    *,
    head: Literal["keep", "reset"] = "keep",
    **changes: object,
) -> Variables:
    """Loads the variables of a network from a file of torchvision, timm or resnet-jax.

    Args:
      path: `.safetensors`, `.npz` (as `save_weights` writes them), or a torch checkpoint with any
        other suffix. The state dict may be wrapped in other dicts; averaged (EMA) weights are
        preferred, as in timm.
      name: one of `list_models()`.
      num_classes: outputs of the head; None: 1000, or 10 for CIFAR networks.
      head: "keep" loads the file's head; "reset" ignores it and initialises a new one of any size.
      **changes: fields of the spec that differ from the name's, as for `create_model`.

    Returns:
      {"params", "batch_stats"} of float32 NumPy arrays; `batch_stats` is {} without BatchNorm.

    Raises:
      WeightsError: the file cannot be read; a tensor is missing, unexpected or of another shape; it
        would take much more memory than the network.
      UnsafeFile: a pickle that names a class or function that is not known to be harmless.
      FileNotFoundError: no such file.
      ValueError: unknown name or field.
    """
    tensors = read_tensors(path, needed(name, num_classes, **changes))
    try:
        return from_tensors(tensors, name, num_classes, head=head, **changes)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    name: str,
    num_classes: int | None = None,
    *,
    head: Literal["keep", "reset"] = "keep",
    **changes: object,
) -> Variables:
    """The variables of a network from tensors by name, such as torch's `state_dict` in NumPy.

    Args:
      tensors: arrays by their names in torchvision, timm or resnet-jax.
      name: one of `list_models()`.
      num_classes: see `load_weights`.
      head: see `load_weights`.
      **changes: see `load_weights`.

    Returns:
      {"params", "batch_stats"} of float32 NumPy arrays.

    Raises:
      WeightsError: a tensor is missing, unexpected or of another shape.
      ValueError: unknown name or field.
    """
    if head not in ("keep", "reset"):
        raise ValueError(f"head {head!r}: choose from 'keep', 'reset'")
    num_classes = zoo.num_classes(name) if num_classes is None else num_classes
    shapes = _shapes(name, num_classes, changes)
    layout = own_layout(shapes)
    if not layout.keys() & tensors.keys():
        layout = torch_layout(zoo.get_spec(name, **changes), shapes)
    heads = {key for key, tensor in layout.items() if tensor.path[1] == "head"}
    if head == "reset":
        tensors = {key: value for key, value in tensors.items() if key not in heads}
        layout = {key: tensor for key, tensor in layout.items() if key not in heads}
    wanted = {key: tensor.shape for key, tensor in layout.items()}
    _check_fit(f"not the weights of {name}", wanted, tensors, heads)
    values = {tensor.path: tensor.read(tensors[key]) for key, tensor in layout.items()}
    if head == "reset":
        values |= _new_head(shapes["params"]["head"])
    return _tree(values)


def save_weights(
    variables: Mapping[str, Any], path: str | os.PathLike[str], name: str, **changes: object
) -> None:
    """Writes variables to a file in float32.

    A `.safetensors` file has the names and layout of torch: `timm.create_model(name)` and
    torchvision load it strictly. A `.npz` file has the paths of the variables, such as
    "params/backbone/stage1/block1/conv1/kernel". bfloat16 values are exact in float32; float64 is
    rounded. Stacked blocks are unstacked.

    Args:
      variables: {"params", "batch_stats"} of the network.
      path: with the suffix `.safetensors` or `.npz`.
      name: one of `list_models()`.
      **changes: fields of the spec that differ from the name's, as for `create_model`.

    Raises:
      ValueError: another suffix; an unknown name; the variables are not those of the network.
      OSError: the file cannot be written; an existing file does not change.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: choose from the suffixes .safetensors, .npz")
    spec = zoo.get_spec(name, **changes)
    given = dict(paths(unstack_blocks(variables)))
    bias = given.get(("params", "head", "bias"))
    shapes = _shapes(name, zoo.num_classes(name) if bias is None else bias.shape[0], changes)
    _check_fit(
        f"variables that are not those of {name}",
        {key: tensor.shape for key, tensor in own_layout(shapes).items()},
        {"/".join(keys): leaf for keys, leaf in given.items()},
    )
    layout = own_layout(shapes) if path.suffix == ".npz" else torch_layout(spec, shapes)
    tensors = {
        key: tensor.write(np.asarray(given[tensor.path]).astype(np.float32, copy=False))
        for key, tensor in layout.items()
    }
    for key in list(tensors):
        if key.endswith(".running_mean"):
            count = key.replace("running_mean", "num_batches_tracked")
            tensors[count] = np.zeros((), np.int64)
    _write(path, tensors)


def torch_shapes(
    name: str, num_classes: int | None = None, **changes: object
) -> dict[str, tuple[int, ...]]:
    """torch's names and shapes of a network's tensors, without `num_batches_tracked`.

    Examples:
      >>> torch_shapes("resnet18")["layer4.1.conv2.weight"]
      (512, 512, 3, 3)
    """
    classes = zoo.num_classes(name) if num_classes is None else num_classes
    layout = torch_layout(zoo.get_spec(name, **changes), _shapes(name, classes, changes))
    return {key: tensor.shape for key, tensor in layout.items()}


def needed(name: str, num_classes: int | None = None, **changes: object) -> Needed:
    """The size of a network's weights, for `read_tensors`. Raises `ValueError`: unknown name."""
    classes = zoo.num_classes(name) if num_classes is None else num_classes
    leaves = jax.tree.leaves(_shapes(name, classes, changes))
    return Needed(f"the weights of {name}", 4 * sum(math.prod(leaf.shape) for leaf in leaves))


def _shapes(name: str, num_classes: int, changes: Mapping[str, Any]) -> Any:
    """The shapes of the variables, by tracing."""
    # With `scan`, identical blocks are traced once.
    return unstack_blocks(_traced(create_model(name, num_classes, scan=True, **changes)))


@lru_cache(maxsize=4)  # tracing takes a second; loading and saving need it both
def _traced(model: Classifier) -> Any:
    size = 64 if model.backbone.spec.image_size == 224 else 32
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), _key(), images)


def _key() -> jax.Array:
    return jax.random.key(0)


def _new_head(shapes: Any) -> dict[tuple[str, ...], np.ndarray]:
    from resnet_jax.init import dense_uniform

    kernel = dense_uniform()(_key(), shapes["kernel"].shape)
    bias = np.zeros(shapes["bias"].shape, np.float32)
    return {("params", "head", "kernel"): np.asarray(kernel), ("params", "head", "bias"): bias}


def _check_fit(
    what: str,
    wanted: Mapping[str, tuple[int, ...]],
    got: Mapping[str, Any],
    heads: Collection[str] = (),
) -> None:
    """Raises `WeightsError` if names or shapes differ; lists the first three of each kind."""
    missing = {key: key for key in wanted if key not in got}
    unexpected = {key: key for key in got if key not in wanted}
    shaped = {
        key: f"{key} {tuple(got[key].shape)}, not {tuple(shape)}"
        for key, shape in wanted.items()
        if key in got and tuple(got[key].shape) != tuple(shape)
    }
    differences = {**missing, **unexpected, **shaped}
    if not differences:
        return
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shaped}
    lines = [
        f"\n  {len(keys)} {kind}: {'; '.join(list(keys.values())[:3])}{' ...' * (len(keys) > 3)}"
        for kind, keys in found.items()
        if keys
    ]
    if differences.keys() <= set(heads):
        keep = "" if missing else "num_classes=... loads it, "
        lines.append(f"\n  Only the head differs: {keep}head='reset' initialises a new one")
    raise WeightsError(what + "".join(lines))


def _tree(values: Mapping[tuple[str, ...], np.ndarray]) -> Variables:
    tree: Variables = {"params": {}, "batch_stats": {}}
    for (*parents, last), value in values.items():
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def _write(path: Path, tensors: Tensors) -> None:
    """Writes a temporary file and renames it, so that a full disk does not damage the old file."""
    temporary = path.with_name(f"{path.name}.tmp{path.suffix}")
    try:
        with open(temporary, "wb") as file:
            if path.suffix == ".npz":
                np.savez(file, **tensors)  # type: ignore[arg-type]
            else:
                from safetensors.numpy import save

                file.write(
                    save(tensors, metadata={"format": "pt"})
                )  # save_file's permissions are 0600
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""Weights from torchvision, timm and ourselves: their tensors' names <-> variable paths."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import zoo
from resnet_jax.heads import create_model
from resnet_jax.spec import LeNetSpec, ResNetSpec, Spec
from resnet_jax.torch_file import read_torch

Variables = dict[str, Any]
Tensors = dict[str, np.ndarray]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# timm and torchvision wrap what they train; the averaged weights are what they publish.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_UNUSED = re.compile(r"(.*\.)?(num_batches_tracked|n_averaged)")


class WeightsError(ValueError):
    """A file of weights that cannot be read, or that does not fit the network."""


def load_weights(
    path: str | os.PathLike[str],
    name: str,
    num_classes: int | None = None,
    *,
    head: Literal["keep", "reset"] = "keep",
    **changes: object,
) -> Variables:
    """The variables of a network from a file in the layout of torchvision, timm or ourselves.

    Args:
      path: `.safetensors`, `.npz` (as `save_weights` writes them), or a torch checkpoint under any
        other suffix. Wrappers around the state dict are taken off; an averaged (EMA) one is
        preferred, as timm does.
      name: one of `list_models()`.
      num_classes: outputs of the head; None: as many as `name` was made for (1000, CIFAR: 10).
      head: "reset" leaves the file's head aside and starts a new one, of any size.
      **changes: fields of the spec that differ from the name's, as for `create_model`.

    Returns:
      {"params", "batch_stats"} of float32 NumPy arrays; `batch_stats` is {} without BatchNorm.

    Raises:
      WeightsError: not such a file; a tensor is missing, unexpected or of another shape.
      UnsafeFile: a pickle that holds more than tensors and plain containers.
      FileNotFoundError: no such file.
      ValueError: unknown name or field.
    """
    tensors = read_tensors(path)
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
    """The variables of a network from tensors by name, such as torch's `state_dict` as NumPy.

    As `load_weights`, which reads them from a file.
    """
    if head not in ("keep", "reset"):
        raise ValueError(f"head {head!r}: choose from 'keep', 'reset'")
    num_classes = zoo.num_classes(name) if num_classes is None else num_classes
    shapes = _shapes(name, num_classes, changes)
    layout = _own_layout(shapes)
    if not layout.keys() & tensors.keys():
        layout = _torch_layout(zoo.get_spec(name, **changes), shapes)
    if head == "reset":
        heads = {key for key, tensor in layout.items() if tensor.path[1] == "head"}
        tensors = {key: value for key, value in tensors.items() if key not in heads}
        layout = {key: tensor for key, tensor in layout.items() if key not in heads}
    wanted = {key: tensor.shape for key, tensor in layout.items()}
    _check_fit(f"not the weights of {name}", wanted, tensors)
    values = {tensor.path: tensor.read(tensors[key]) for key, tensor in layout.items()}
    if head == "reset":
        values |= _new_head(shapes["params"]["head"])
    return _tree(values)


def save_weights(
    variables: Mapping[str, Any], path: str | os.PathLike[str], name: str, **changes: object
) -> None:
    """Writes variables to a file, by its suffix.

    `.safetensors` has the names and the layout of torch: `timm.create_model(name)` and torchvision
    load it strictly. `.npz` has ours: "params/backbone/stage1/block1/conv1/kernel".

    Raises:
      ValueError: another suffix; an unknown name; variables that are not this network's.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: choose from the suffixes .safetensors, .npz")
    spec = zoo.get_spec(name, **changes)
    given = dict(_paths(variables))
    bias = given.get(("params", "head", "bias"))
    shapes = _shapes(name, zoo.num_classes(name) if bias is None else bias.shape[0], changes)
    _check_fit(
        f"variables that are not those of {name}",
        {key: tensor.shape for key, tensor in _own_layout(shapes).items()},
        {"/".join(keys): leaf for keys, leaf in given.items()},
    )
    layout = _own_layout(shapes) if path.suffix == ".npz" else _torch_layout(spec, shapes)
    tensors = {key: tensor.write(np.asarray(given[tensor.path])) for key, tensor in layout.items()}
    for key in list(tensors):
        if key.endswith(".running_mean"):
            count = key.replace("running_mean", "num_batches_tracked")
            tensors[count] = np.zeros((), np.int64)
    _write(path, tensors)


def torch_shapes(
    name: str, num_classes: int | None = None, **changes: object
) -> dict[str, tuple[int, ...]]:
    """torch's names and shapes of a network's tensors, without `num_batches_tracked`.

    >>> torch_shapes("resnet18")["layer4.1.conv2.weight"]
    (512, 512, 3, 3)
    """
    classes = zoo.num_classes(name) if num_classes is None else num_classes
    layout = _torch_layout(zoo.get_spec(name, **changes), _shapes(name, classes, changes))
    return {key: tensor.shape for key, tensor in layout.items()}


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of a file by name, float32, without wrappers and what only torch needs.

    Raises:
      WeightsError, UnsafeFile, FileNotFoundError: see `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = _read(path)
    except (OSError, ValueError) as error:
        if type(error).__name__ == "UnsafeFile":
            raise
        raise WeightsError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    tensors = _unwrap(path, content)
    if "linear.weight" in tensors:  # CIFAR networks outside timm call the head so
        tensors = {re.sub(r"^linear\.", "fc.", key): value for key, value in tensors.items()}
    return {
        key: value.astype(np.float32)
        for key, value in tensors.items()
        if not _UNUSED.fullmatch(key)
    }


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="flax") as file:  # NumPy itself has no bfloat16
                return {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsError(f"not a complete safetensors file ({error})") from error
    if path.suffix == ".npz":
        import zipfile

        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (zipfile.BadZipFile, EOFError) as error:
            raise WeightsError(f"not a complete npz file ({error})") from error
    return read_torch(path)


def _unwrap(path: Path, content: Any) -> Tensors:
    """The state dict inside a checkpoint, without prefixes."""
    wrapper = next((key for key in _WRAPPERS if isinstance(content, dict) and key in content), None)
    if wrapper and isinstance(content[wrapper], dict):
        return _unwrap(path, content[wrapper])
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: holds {type(content).__name__}, not a state dict")
    other = [key for key, value in content.items() if not isinstance(value, np.ndarray)]
    if other:
        raise WeightsError(
            f"{path}: holds no state dict: {other[0]!r} is a {type(content[other[0]]).__name__}; "
            f"a state dict may stand under {', '.join(map(repr, _WRAPPERS))}"
        )
    for prefix in _PREFIXES:
        content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def _shapes(name: str, num_classes: int, changes: Mapping[str, Any]) -> Any:
    """The variables' shapes, without computing anything."""
    return _traced(name, num_classes, tuple(changes.items()))


@lru_cache(maxsize=4)  # tracing 420 layers takes seconds, and whoever loads a file often saves one
def _traced(name: str, num_classes: int, changes: tuple[tuple[str, Any], ...]) -> Any:
    model = create_model(name, num_classes, **dict(changes))
    size = 64 if zoo.ZOO[name].image_size == 224 else 32
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: model.init(key, x, train=False), _key(), images)
    return {"batch_stats": {}, **shapes}


def _key() -> jax.Array:
    return jax.random.key(0)


def _new_head(shapes: Any) -> dict[tuple[str, ...], np.ndarray]:
    from resnet_jax.init import dense_uniform

    kernel = dense_uniform()(_key(), shapes["kernel"].shape)
    bias = np.zeros(shapes["bias"].shape, np.float32)
    return {("params", "head", "kernel"): np.asarray(kernel), ("params", "head", "bias"): bias}


def _check_fit(what: str, wanted: Mapping[str, tuple[int, ...]], got: Mapping[str, Any]) -> None:
    """Raises `WeightsError` that lists the first few of each kind of misfit."""
    missing = [key for key in wanted if key not in got]
    unexpected = [key for key in got if key not in wanted]
    shaped = [
        f"{key} {tuple(got[key].shape)}, not {tuple(shape)}"
        for key, shape in wanted.items()
        if key in got and tuple(got[key].shape) != tuple(shape)
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shaped}
    if not any(found.values()):
        return
    lines = [
        f"\n  {len(keys)} {kind}: {'; '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
        for kind, keys in found.items()
        if keys
    ]
    hint = ""
    if not missing and not unexpected and all(re.search(r"fc\.|head", line) for line in shaped):
        hint = (
            "\n  Only the head differs: num_classes=... takes it as it is, head='reset' starts a "
            "new one"
        )
    raise WeightsError(what + "".join(lines) + hint)


class _Tensor(NamedTuple):
    """One tensor of a file: the variable it is, and how it lies there."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    """Of the variable, in the file's order."""

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """The variable, from the file's tensor."""
        inner = tensor.reshape([tensor.shape[i] for i in range(len(self.axes))])
        return np.ascontiguousarray(inner.transpose(np.argsort(self.axes)))

    def write(self, variable: np.ndarray) -> np.ndarray:
        """The file's tensor, from the variable."""
        return np.ascontiguousarray(variable.transpose(self.axes)).reshape(self.shape)


def _own_layout(shapes: Any) -> dict[str, _Tensor]:
    return {
        "/".join(path): _Tensor(path, leaf.shape, tuple(range(len(leaf.shape))))
        for path, leaf in _paths(shapes)
    }


def _torch_layout(spec: Spec, shapes: Any) -> dict[str, _Tensor]:
    """torch's name of each tensor -> what it is here."""
    layout = {}
    for path, leaf in _paths(shapes):
        _, *modules, last = path
        if preact := isinstance(spec, ResNetSpec) and spec.preact:
            module = _v2_name(modules, spec)
        else:
            module = _v1_name(modules, spec)
        axes = tuple(reversed(range(leaf.ndim)))  # [H, W, in, out] -> [out, in, W, H]
        if leaf.ndim == 4:
            axes = (3, 2, 0, 1)
        shape = tuple(leaf.shape[i] for i in axes)
        if leaf.ndim == 2 and (preact or modules[-1] in ("fc1", "fc2")):
            shape += (1, 1)  # a dense layer that torch has as a 1x1 convolution
        layout[f"{module}.{_LEAVES[last]}"] = _Tensor(path, shape, axes)
    return layout


def _v1_name(modules: list[str], spec: Spec) -> str:
    """As torchvision and timm's resnet.py call a module."""
    if modules[0] == "head":
        return "fc"
    if isinstance(spec, LeNetSpec):
        return modules[1]
    if modules[1].startswith("stage"):
        stage, block, *inner = modules[1:]
        return f"layer{stage[5:]}.{int(block[5:]) - 1}.{_in_block(inner, spec.avg_down)}"
    if modules[1] == "stem_pool_conv":
        return "maxpool.0"
    if modules[1] == "stem_pool_norm":
        return f"maxpool.{1 + (spec.anti_alias != 'none')}"
    count, number = len(spec.stem_convs()), int(modules[1][9:])
    if modules[1].startswith("stem_norm"):
        return "bn1" if number == count else f"conv1.{3 * number - 2}"
    return "conv1" if count == 1 else f"conv1.{3 * number - 3}"


def _in_block(inner: list[str], avg_down: bool) -> str:
    names = {
        "shortcut_conv": f"downsample.{int(avg_down)}",
        "shortcut_norm": f"downsample.{int(avg_down) + 1}",
        "eca": "se.conv",
        "se": ".".join(inner),
    }
    return names.get(inner[0]) or inner[0].replace("norm", "bn")


def _v2_name(modules: list[str], spec: ResNetSpec) -> str:
    """As timm's resnetv2.py calls a module."""
    if modules[0] == "head":
        return "head.fc"
    if modules[1].startswith("stage"):
        stage, block, *inner = modules[1:]
        names = {"shortcut_conv": "downsample.conv", "se": ".".join(inner), "eca": "se.conv"}
        name = names.get(inner[0], inner[0])
        return f"stages.{int(stage[5:]) - 1}.blocks.{int(block[5:]) - 1}.{name}"
    if len(spec.stem_convs()) == 1 and modules[1].startswith("stem_conv"):
        return "stem.conv"
    return modules[1].replace("stem_", "stem.")


def _paths(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        yield tuple(str(key.key) for key in path), leaf


def _tree(values: Mapping[tuple[str, ...], np.ndarray]) -> Variables:
    tree: Variables = {"params": {}, "batch_stats": {}}
    for (*parents, last), value in values.items():
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def _write(path: Path, tensors: Tensors) -> None:
    """Written beside and renamed: a full disk leaves the old file."""
    temporary = path.with_name(f"{path.name}.tmp{path.suffix}")
    try:
        if path.suffix == ".npz":
            np.savez(temporary, **tensors)  # type: ignore[arg-type]
        else:
            from safetensors.numpy import save_file

            save_file(tensors, temporary, metadata={"format": "pt"})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

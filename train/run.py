"""A run: its parts, built from its config, and its directory."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from train.config import ConfigError, RunConfig, to_steps
from train.config_json import differences, from_json, keep_versions, to_json, with_versions
from train.data.sources import Splits, open_splits

_EXTRAS = ("versions", "commit", "devices", "class_names", "examples", "parameters")


def check_workdir(workdir: Path, config: RunConfig) -> None:
    """Raises `ConfigError` if the directory holds another run, saying what differs."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {str(workdir)!r}: is a file")
    if not (workdir / "config.json").exists():
        if any((workdir / "checkpoints").glob("*")):
            raise ConfigError(f"workdir {str(workdir)!r}: holds checkpoints but no config.json")
        return
    changed = differences(read_config(workdir), config)
    if changed:
        lines = "\n  ".join(changed)
        raise ConfigError(
            f"workdir {str(workdir)!r} holds another run; choose another --workdir, or the same "
            f"options. What differs (there -> now):\n  {lines}"
        )


def resumed_config(workdir: Path, config: RunConfig) -> RunConfig:
    """`config` with the versions of rules (shuffle, held-out share) that `workdir` began with."""
    if not (workdir / "config.json").is_file():
        return config
    return keep_versions(read_config(workdir), config)


def check_data(workdir: Path, run: "Run", *, same_size: bool) -> None:
    """Raises `ConfigError` if the data are no longer those that the run in `workdir` began with.

    Args:
      same_size: the splits must have as many examples too; else only the classes count.
    """
    if not (workdir / "config.json").exists():
        return
    began = _read(workdir)
    splits = run.splits
    now: dict[str, Any] = {"class_names": list(splits.train.class_names)}
    if same_size:
        now["examples"] = {"train": len(splits.train), "eval": len(splits.eval)}
    for name, value in now.items():
        if value != began[name]:
            what = name.replace("_", " ")
            raise ConfigError(
                f"the data of {str(workdir)!r} have changed: its {what} were {began[name]}, and "
                f"{run.config.data.name} {run.config.data.dir or ''} now has {value}"
            )


def read_config(workdir: Path) -> RunConfig:
    """The config of the run in a directory.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    content = {k: v for k, v in _read(workdir).items() if k not in _EXTRAS}
    return from_json(with_versions(content))


def read_class_names(workdir: Path) -> list[str]:
    """The names of the run's classes, by label."""
    return list(_read(workdir)["class_names"])


def _read(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{str(workdir)!r} is not a run directory: it has no config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "architecture" in content:
            raise ConfigError(
                f"{str(workdir)!r} is no run but a folder of timm's weights: name the file in it, "
                f"{workdir / 'model.safetensors'}"
            )
        return content
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None


def write_config(workdir: Path, run: "Run", parameters: int) -> None:
    """config.json: the config, and what else it takes to reproduce the run."""
    import jax

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "resnet-jax")
    devices = jax.devices()
    extras = {
        "parameters": parameters,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "commit": code_version(),
        "versions": {"python": platform.python_version(), **{n: _version(n) for n in names}},
        "examples": {"train": len(run.splits.train), "eval": len(run.splits.eval)},
        "class_names": list(run.splits.train.class_names),
    }
    temporary = workdir / "config.tmp"
    temporary.write_text(
        json.dumps({**to_json(run.config), **extras}, indent=1) + "\n", encoding="utf-8"
    )
    os.replace(temporary, workdir / "config.json")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_version() -> str | None:
    """The commit of this code, with "+" if files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(here), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Run:
    """The parts of a run, each built from the config when it is first asked for."""

    def __init__(
        self, config: RunConfig, *, mesh: Any = None, splits: Splits | None = None
    ) -> None:
        """`mesh` and `splits` stand in for all devices and for the data that the config names.

        `config.norm_group_size` "device" becomes a number here.

        Raises:
          ConfigError: `mesh.fsdp` or a batch size does not fit the devices.
        """
        self.config = config
        given = {"mesh": mesh, "splits": splits}
        vars(self).update({name: part for name, part in given.items() if part is not None})
        if config.norm_group_size == "device":
            from train.mesh import check_batch_size

            check_batch_size("batch_size", config.batch_size, self.mesh)
            group = config.batch_size // self.mesh.size
            self.config = replace(config, norm_group_size=group)

    @cached_property
    def splits(self) -> Splits:
        return open_splits(self.config.data)

    def steps(self, duration: str) -> int:
        """Steps in a duration of this run."""
        batch_size = self.config.batch_size
        return to_steps(duration, examples=len(self.splits.train), batch_size=batch_size)

    @cached_property
    def total_steps(self) -> int:
        return self.steps(self.config.duration)

    @cached_property
    def mesh(self) -> Any:
        from train.mesh import make_mesh

        return make_mesh(fsdp=self.config.mesh.fsdp)

    @cached_property
    def model(self) -> Any:
        return make_model(self.config, len(self.splits.train.class_names))

    @cached_property
    def schedule(self) -> Callable[[int], Any]:
        from train.optim import make_schedule

        examples = len(self.splits.train)
        return make_schedule(self.config, examples=examples, total_steps=self.total_steps)

    @cached_property
    def tx(self) -> Any:
        from train.optim import make_optimizer

        return make_optimizer(self.config.optim, self.schedule)

    @cached_property
    def prepare(self) -> Any:
        from train.prepare import make_prepare

        data = self.config.data
        names = self.splits.train.class_names
        return make_prepare(len(names), data.mean, data.std, self.config.mix)

    @cached_property
    def train_step(self) -> Any:
        from train.step import make_train_step

        parts, options = self.step_parts
        return make_train_step(*parts, sharding=self.state_sharding, **options)

    @property
    def step_parts(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `make_step`."""
        from train.tasks import Classify

        config = self.config
        options = {"seed": config.seed, "ema_decay": config.ema_decay}
        options["skip_nonfinite"] = config.skip_nonfinite > 0
        return (self.model, Classify(), self.tx, self.prepare, self.mesh), options

    @cached_property
    def resident(self) -> bool:
        """Whether the training images live on the devices.

        Raises:
          ConfigError: `data.resident` says so, and they cannot.
        """
        from train.data.resident import lives_on_devices

        return lives_on_devices(self.config, self.splits, self.mesh, self.total_steps)

    @cached_property
    def state_sharding(self) -> Any:
        """How the state lies on the mesh; None: the whole of it on every device."""
        from train.state import state_sharding

        if self.config.mesh.fsdp == 1:
            return None
        return state_sharding(self._shapes, self.mesh, params=self.config.mesh.fsdp_params)

    @property
    def abstract_state(self) -> Any:
        """The state's shapes with their shardings, for what compiles and does not run."""
        import jax

        from train.state import state_sharding

        sharding = state_sharding(self._shapes, self.mesh, params=self.config.mesh.fsdp_params)
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            self._shapes,
            sharding,
        )

    @cached_property
    def _shapes(self) -> Any:
        import jax

        from train.state import first_state, init_variables

        config = self.config

        def first() -> Any:
            variables = init_variables(self.model, config.data.image_size, config.seed)
            return first_state(variables, self.tx, ema=bool(config.ema_decay))

        return jax.eval_shape(first)

    @cached_property
    def eval_step(self) -> Any:
        from train.step import make_eval_step
        from train.tasks import Classify

        return make_eval_step(self.model, Classify(), self.prepare, self.mesh)

    @cached_property
    def given(self) -> Any:
        """The variables of `init.weights`, in the network's shapes; None: it starts at random.

        Raises:
          ConfigError: there are none, or they do not fit.
        """
        from resnet_jax import stack_blocks
        from train.weights import initial

        init, names = self.config.init, self.splits.train.class_names
        if not init.weights:
            return None
        variables = initial(init, self.config.model, len(names))
        return stack_blocks(variables) if self.config.scans else variables

    def new_state(self, *, resumes: bool = False) -> Any:
        """The state before the first step; a run that `resumes` needs only its shapes, no file."""
        from train.state import create_state, init_variables

        name, size = self.config.model.name, self.config.data.image_size
        try:
            variables = init_variables(self.model, size, self.config.seed)
        except ValueError as error:
            raise ConfigError(f"{name} at data.image_size {size}: {error}") from None
        if not resumes and self.given is not None:
            fresh = variables["params"]["head"]
            variables = {key: self.given[key] for key in variables}
            if self.config.init.head == "reset":
                variables["params"] = {**variables["params"], "head": fresh}
            self.__dict__.pop("given")  # gigabytes, for a large network
        return create_state(
            variables,
            self.tx,
            self.mesh,
            ema=bool(self.config.ema_decay),
            shard_params=self.config.mesh.fsdp_params,
        )


def make_model(config: RunConfig, num_classes: int) -> Any:
    """The network of a config."""
    import jax.numpy as jnp

    from resnet_jax import create_model

    assert config.norm_group_size != "device", "a Run knows how many that are"
    return create_model(
        config.model.name,
        num_classes,
        dtype=jnp.bfloat16 if config.precision == "bf16" else jnp.float32,
        norm_group_size=config.norm_group_size,
        scan=config.scans,
        **config.model.changes,
    )

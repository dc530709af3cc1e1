"""A run: its parts, built from its config, and its directory."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from train.config import ConfigError, RunConfig, to_steps
from train.config.serialize import from_json, to_json, unknown_fields, with_versions
from train.data import file_list
from train.data.sources import Splits, open_splits
from train.run.provenance import code_version, command_line, versions

_EXTRAS = (
    "versions",
    "commit",
    "command",
    "devices",
    "class_names",
    "examples",
    "files",
    "parameters",
    "segments",
)


def read_config(workdir: Path) -> RunConfig:
    """The config of the run in a directory.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    path = workdir / "config.json"
    whole = _read(workdir)
    content = {k: v for k, v in whole.items() if k not in _EXTRAS}
    if unknown := unknown_fields(content):
        fields = ", ".join(f"{name} ({value!r})" for name, value in unknown.items())
        wrote = (whole.get("versions") or {}).get("resnet-jax", "unknown")
        here = f"this version of resnet-jax ({versions()['resnet-jax']})"
        raise ConfigError(
            f"{path}: {here} does not know {fields}; version {wrote} wrote the file. Install that "
            "version, or delete what is unknown from the file to go on without it"
        )
    try:
        return from_json(with_versions(content))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_class_names(workdir: Path) -> list[str]:
    """The names of the run's classes, by label."""
    return list(_read(workdir)["class_names"])


def read_record(workdir: Path) -> dict[str, Any]:
    """All of config.json: the options, and what was recorded when the run began."""
    return _read(workdir)


def _read(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{str(workdir)!r} is not a run directory: it has no config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs an object of options, not {str(content)[:40]!r}")
    if "architecture" in content:
        raise ConfigError(
            f"{str(workdir)!r} is no run but a folder of timm's weights: name the file in it, "
            f"{workdir / 'model.safetensors'}"
        )
    return content


def write_config(workdir: Path, run: "Run", parameters: int) -> None:
    """config.json: the config, and what else it takes to reproduce the run."""
    extras = {
        "parameters": parameters,
        **provenance(),
        "examples": {"train": len(run.splits.train), "eval": len(run.splits.eval)},
        "class_names": list(run.splits.train.class_names),
    }
    if run.files:
        extras["files"] = run.files
        file_list.write_names(workdir, run.splits)
    tree = to_json(run.config)
    tree["data"].update(run.splits.chosen)
    temporary = workdir / "config.tmp"
    text = json.dumps({**tree, **extras}, indent=1) + "\n"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, workdir / "config.json")


def provenance() -> dict[str, Any]:
    """What a run is computed on and by: devices, commit, command, versions of packages."""
    import jax

    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "commit": code_version(),
        "command": command_line(),
        "versions": versions(),
    }


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
            from train.distributed.mesh import check_batch_size

            check_batch_size("batch_size", config.batch_size, self.mesh)
            group = config.batch_size // self.mesh.size
            self.config = replace(config, norm_group_size=group)

    @cached_property
    def splits(self) -> Splits:
        return open_splits(self.config.data)

    @cached_property
    def files(self) -> dict[str, Any] | None:
        """What config.json keeps of the data's files; None where they are no folder of photos."""
        return file_list.summary(self.splits)

    def steps(self, duration: str, total: int | None = None) -> int:
        """Steps in a duration of this run; `total`: of which a share, such as "10%", is one."""
        return to_steps(
            duration,
            examples=len(self.splits.train),
            batch_size=self.config.batch_size,
            total=total,
        )

    @cached_property
    def total_steps(self) -> int:
        return self.steps(self.config.duration)

    @cached_property
    def mesh(self) -> Any:
        from train.distributed.mesh import make_mesh

        return make_mesh(fsdp=self.config.mesh.fsdp)

    @cached_property
    def model(self) -> Any:
        return make_model(self.config, len(self.splits.train.class_names))

    @cached_property
    def schedule(self) -> Callable[[int], Any]:
        from train.learn.optim import make_schedule

        examples = len(self.splits.train)
        return make_schedule(self.config, examples=examples, total_steps=self.total_steps)

    @cached_property
    def tx(self) -> Any:
        from train.learn.optim import make_optimizer

        return make_optimizer(self.config.optim, self.schedule)

    @cached_property
    def prepare(self) -> Any:
        from train.learn.prepare import make_prepare

        data = self.config.data
        names = self.splits.train.class_names
        mix, total = self.config.mix, self.total_steps
        until = total - self.steps(mix.off, total) if mix.mixes and mix.off else None
        return make_prepare(len(names), data.mean, data.std, mix, mix_until=until)

    @cached_property
    def train_step(self) -> Any:
        from train.learn.step import make_train_step

        parts, options = self.step_parts
        return make_train_step(*parts, sharding=self.state_sharding, **options)

    @property
    def step_parts(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `make_step`."""
        from train.learn.tasks import Classify

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
        from train.data.on_device import lives_on_devices

        return lives_on_devices(self.config, self.splits, self.mesh, self.total_steps)

    @cached_property
    def state_sharding(self) -> Any:
        """How the state lies on the mesh; None: the whole of it on every device."""
        from train.learn.state import state_sharding

        if self.config.mesh.fsdp == 1:
            return None
        return state_sharding(self._shapes, self.mesh, params=self.config.mesh.fsdp_params)

    @property
    def abstract_state(self) -> Any:
        """The state's shapes with their shardings, for what compiles and does not run."""
        import jax

        from train.learn.state import state_sharding

        sharding = state_sharding(self._shapes, self.mesh, params=self.config.mesh.fsdp_params)
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            self._shapes,
            sharding,
        )

    @cached_property
    def _shapes(self) -> Any:
        import jax

        from train.learn.state import first_state, init_variables

        config = self.config

        def first() -> Any:
            variables = init_variables(self.model, config.data.image_size, config.seed)
            return first_state(variables, self.tx, ema=bool(config.ema_decay))

        try:
            return jax.eval_shape(first)
        except ValueError as error:
            name, size = config.model.name, config.data.image_size
            raise ConfigError(f"{name} at data.image_size {size}: {error}") from None

    @property
    def parameters(self) -> int:
        """Parameters of the network, counted from its shapes.

        Raises:
          ConfigError: the network cannot take images of `data.image_size`.
        """
        import jax

        return sum(x.size for x in jax.tree.leaves(self._shapes.params))

    @cached_property
    def eval_step(self) -> Any:
        from train.learn.step import make_eval_step
        from train.learn.tasks import Classify

        return make_eval_step(self.model, Classify(), self.prepare, self.mesh)

    @cached_property
    def pretrained_variables(self) -> Any:
        """The variables of `init.weights`, in the network's shapes; None: it starts at random.

        Raises:
          ConfigError: there are none, or they do not fit.
        """
        from resnet_jax import stack_blocks
        from train.checkpoint.weights import initial

        init, names = self.config.init, self.splits.train.class_names
        if not init.weights:
            return None
        variables = initial(init, self.config.model, len(names))
        return stack_blocks(variables) if self.config.scans else variables

    def new_state(self, *, resumes: bool = False) -> Any:
        """The state before the first step; a run that `resumes` needs only its shapes, no file."""
        from train.learn.state import create_state, init_head, init_variables

        name, size = self.config.model.name, self.config.data.image_size
        random = resumes or self.pretrained_variables is None
        try:
            init = init_variables if random else init_head
            variables = init(self.model, size, self.config.seed)
        except ValueError as error:
            raise ConfigError(f"{name} at data.image_size {size}: {error}") from None
        if not random:
            head, variables = (
                variables,
                self.__dict__.pop("pretrained_variables"),
            )  # gigabytes, if large
            if self.config.init.head == "reset":
                variables = {**variables, "params": {**variables["params"], "head": head}}
        return create_state(
            variables,
            self.tx,
            self.mesh,
            ema=bool(self.config.ema_decay),
            shard_params=self.config.mesh.fsdp_params,
        )


def make_model(config: RunConfig, num_classes: int, **options: Any) -> Any:
    """The network of a config; `options` are further arguments of `create_model`."""
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
        **options,
    )

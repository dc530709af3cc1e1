"""`Run`: the parts of a run (data, mesh, network, optimiser, steps), built from its config."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from resnet_jax import Classifier, stack_blocks
from train.checkpoint.weights import initial
from train.config import ConfigError, RunConfig, to_steps
from train.config.base import seconds_in
from train.data import file_list
from train.data.balance import Balance, make_balance
from train.data.on_device import lives_on_devices
from train.data.sizes import Segment, segments
from train.data.sources import Splits, open_splits
from train.distributed.mesh import make_mesh
from train.learn.losses import make_penalty
from train.learn.model import make_model, resolve_norm_groups
from train.learn.optim import Average, make_average, make_optimizer, make_schedule
from train.learn.prepare import Normalisation, Prepare, make_prepare
from train.learn.state import (
    TrainState,
    Variables,
    create_state,
    first_state,
    init_variables,
    state_sharding,
)
from train.learn.step import (
    EvalStep,
    JittedStep,
    Step,
    StepOptions,
    make_eval_step,
    make_step,
    make_train_step,
)
from train.learn.tasks import Task, make_task
from train.run import initial_state
from train.run.class_weights import find_class_weights


class Run:
    """The parts of a run. Each is built from the config when it is first used, and then kept."""

    def __init__(
        self,
        config: RunConfig,
        *,
        mesh: Mesh | None = None,
        splits: Splits | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Resolves `config.norm_group_size` "device"; see `resolve_norm_groups`.

        Args:
          mesh: None: all devices.
          splits: None: the data set that the config names, opened at first use.
          class_weights: those that config.json records; None: counted in the training split.

        Raises:
          ConfigError: `mesh.fsdp` or the batch size does not fit the devices.
        """
        self.mesh = make_mesh(fsdp=config.mesh.fsdp) if mesh is None else mesh
        self.config = resolve_norm_groups(config, self.mesh)
        if splits is not None:
            self.splits = splits
        if class_weights is not None:
            self.class_weights = tuple(class_weights)
        self.time_budget = ""
        """The duration in hours that `config.duration` was chosen for; ''; it was not."""
        self._pretrained: Variables | None = None
        self._normalisation: Normalisation | None = None
        self.measured = ""  # of the images, in words

    # --- data ------------------------------------------------------------------------------------

    @cached_property
    def splits(self) -> Splits:
        return open_splits(self.config.data)

    @property
    def class_names(self) -> list[str]:
        return list(self.splits.train.class_names)

    @cached_property
    def files(self) -> dict[str, Any] | None:
        """What config.json records of the data's files; None if the data are no image folder."""
        return file_list.summary(self.splits)

    @cached_property
    def resident(self) -> bool:
        """Whether the training images are stored on the devices.

        Raises:
          ConfigError: `data.resident` is "on", but it is not possible.
        """
        return lives_on_devices(self.config, self.splits, self.mesh, self.total_steps)

    @cached_property
    def balance(self) -> Balance | None:
        """The order of `data.balance`; None: "none". Raises as `make_balance` does."""
        return make_balance(self.splits.train, self.config.data)

    # --- steps -----------------------------------------------------------------------------------

    def steps(self, duration: str, total: int | None = None) -> int:
        """The number of steps in a duration of this run: "90ep", or "10%" of `total` steps."""
        batch_size, examples = self.config.batch_size, len(self.splits.train)
        return to_steps(duration, examples=examples, batch_size=batch_size, total=total)

    @cached_property
    def total_steps(self) -> int:
        if seconds_in(self.config.duration):
            raise ConfigError(
                f"duration {self.config.duration!r}: only `train` turns a time into steps; give "
                "epochs ('90ep') or steps ('500st')"
            )
        return self.steps(self.config.duration)

    @property
    def mix_until(self) -> int | None:
        """The number of steps with mixup and CutMix, before `mix.off`; None: no step is without."""
        mix, total = self.config.mix, self.total_steps
        return total - self.steps(mix.off, total) if mix.mixes and mix.off else None

    @cached_property
    def image_sizes(self) -> list[Segment]:
        """The steps of the run by the size of their training images."""
        return segments(self.config, len(self.splits.train), self.total_steps)

    @cached_property
    def model(self) -> Classifier:
        return make_model(self.config, len(self.class_names))

    @cached_property
    def class_weights(self) -> tuple[float, ...] | None:
        """The weights of the classes in the loss; None: `loss.class_weights` is "none".

        Raises:
          ConfigError: see `find_class_weights`.
        """
        return find_class_weights(self.config, self.splits.train)

    @cached_property
    def task(self) -> Task:
        weights = self.class_weights
        if weights is None:
            return make_task(self.config)
        loss = replace(self.config.loss, class_weights=weights)
        return make_task(replace(self.config, loss=loss))

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Step -> learning rate. Raises `ConfigError` as `make_schedule` does."""
        examples = len(self.splits.train)
        return make_schedule(self.config, examples=examples, total_steps=self.total_steps)

    @cached_property
    def average(self) -> Average | None:
        """How weights are averaged; None: they are not. Raises as `make_average` does."""
        examples = len(self.splits.train)
        return make_average(self.config, examples=examples, total_steps=self.total_steps)

    @cached_property
    def tx(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optim, self.schedule)

    def use(self, config: RunConfig, normalisation: Normalisation) -> None:
        """Sets what was measured on the images (`train.run.pixels`), before anything is built."""
        self.measured = self.config.data.measured_name
        self.config, self._normalisation = config, normalisation

    @property
    def normalisation(self) -> Normalisation:
        data = self.config.data
        if self._normalisation is None:
            assert not data.measures and not isinstance(data.mean, str), "measure_pixels is first"
            self._normalisation = Normalisation(data.mean, data.std)
        return self._normalisation

    @cached_property
    def prepare(self) -> Prepare:
        mean, std, matrix = self.normalisation
        options: Any = {"mix_until": self.mix_until, "matrix": matrix}
        return make_prepare(len(self.class_names), mean, std, self.config.mix, **options)

    @property
    def _step_options(self) -> StepOptions:
        config = self.config
        return {
            "seed": config.seed,
            "ema_decay": self.average.decay if self.average else 0.0,
            "ema_every": self.average.every if self.average else 1,
            "skip_nonfinite": config.skip_nonfinite > 0,
            "penalty": make_penalty(config.loss),
            "micro_batches": config.optim.accumulate,
            "sam": config.optim.sam,
        }

    @cached_property
    def step(self) -> Step:
        """One training step: a plain function, to be traced."""
        parts = self.model, self.task, self.tx, self.prepare, self.mesh
        return make_step(*parts, **self._step_options)

    @cached_property
    def train_step(self) -> JittedStep:
        """`step`, jitted over the mesh. The state is donated."""
        parts = self.model, self.task, self.tx, self.prepare, self.mesh
        return make_train_step(*parts, sharding=self.state_sharding, **self._step_options)

    @cached_property
    def eval_step(self) -> EvalStep:
        return make_eval_step(self.model, self.task, self.prepare, self.mesh)

    # --- state -----------------------------------------------------------------------------------

    @cached_property
    def _shapes(self) -> TrainState:
        """The state, as `jax.ShapeDtypeStruct`s."""
        config = self.config

        def first() -> TrainState:
            variables = init_variables(self.model, config.data.image_size, config.seed)
            return first_state(
                variables, self.tx, ema=config.averages, loss_scale=config.precision == "fp16"
            )

        with initial_state.explained(config):
            return jax.eval_shape(first)

    @property
    def parameters(self) -> int:
        """The number of parameters of the network, counted from its shapes.

        Raises:
          ConfigError: the network cannot take images of `data.image_size`.
        """
        return sum(x.size for x in jax.tree.leaves(self._shapes.params))

    @cached_property
    def state_sharding(self) -> TrainState | None:
        """The sharding of each array of the state; None: all are replicated on every device."""
        if self.config.mesh.fsdp == 1:
            return None
        return state_sharding(self._shapes, self.mesh, params=self.config.mesh.fsdp_params)

    @property
    def abstract_state(self) -> TrainState:
        """The shapes of the state with their shardings: enough to compile a step."""
        sharding = state_sharding(self._shapes, self.mesh, params=self.config.mesh.fsdp_params)
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            self._shapes,
            sharding,
        )

    def load_pretrained(self) -> None:
        """Reads `init.weights`, if there are any, for the next `new_state`.

        `new_state` does it too. Called before, it shows errors before anything is compiled.

        Raises:
          ConfigError: the weights are missing, or do not fit the network.
        """
        config = self.config
        if config.init.weights and self._pretrained is None:
            variables = initial(config.init, config.model, len(self.class_names))
            self._pretrained = stack_blocks(variables) if config.scans else variables

    def new_state(self, *, resumes: bool = False) -> TrainState:
        """The state before the first step.

        Args:
          resumes: a checkpoint will replace the values, so `init.weights` is not read.

        Raises:
          ConfigError: the network cannot take images of `data.image_size`; see `load_pretrained`.
        """
        if resumes:
            variables = initial_state.random_variables(self.model, self.config)
        else:
            self.load_pretrained()
            given, self._pretrained = self._pretrained, None  # large networks take gigabytes
            variables = initial_state.first_variables(self.model, self.config, given)
        return create_state(
            variables,
            self.tx,
            self.mesh,
            ema=self.config.averages,
            loss_scale=self.config.precision == "fp16",
            shard_params=self.config.mesh.fsdp_params,
        )

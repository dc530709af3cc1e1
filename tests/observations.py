"""What an option may change, observed: batches, networks, updates, what a run leaves."""

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import save_weights
from tests.data.test_tfds_keys import IMAGE, label, prepared
from tests.examples import picture
from tests.networks import jit
from tests.runs import tiny
from train.checkpoint.manager import Checkpoints
from train.config import ConfigError, RunConfig, RunError
from train.data.pipeline import eval_batches, train_batches
from train.data.prefetch import Feed, never
from train.data.readers import EvalReader
from train.data.sources import ArraySource, Example, open_splits
from train.distributed.launchers import detect_process
from train.distributed.mesh import put_batch
from train.learn.losses import make_penalty
from train.learn.model import make_model
from train.learn.optim import make_optimizer, make_schedule
from train.learn.tasks import Classify
from train.report.metrics_file import read_metrics
from train.run.dispatch import dispatches
from train.run.fit import fit
from train.run.parts import Run
from train.run.pixels import measured


def digest(tree: Any) -> str:
    """A hash of every array in a tree, shapes included."""
    text = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        text.update(f"{path} {np.shape(leaf)} {np.asarray(leaf).dtype}".encode())
        text.update(np.asarray(leaf).tobytes())
    return text.hexdigest()


def network(config: RunConfig, workdir) -> str:
    """What the network makes of a batch in training and in evaluation."""
    model = make_model(config, 10)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), jnp.float32)

    @jit
    def run(key):
        variables = model.init(key, images, train=False)
        keys = {"dropout": key}
        trained = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=keys)
        variables = {"params": variables["params"], **trained[1]}
        return variables, trained, model.apply(variables, images, train=False)

    return digest(run(jax.random.key(0)))


def steps(config: RunConfig, workdir) -> str:
    """The state after two training steps."""
    run = Run(config)
    if config.data.measures:
        run.use(*measured(run))
    state = run.new_state()
    batches = train_batches(
        run.splits.train,
        config.data,
        config.augment,
        seed=config.seed,
        batch_size=config.batch_size,
        start=0,
        stop=2,
    )
    for batch in batches:
        state, _ = run.train_step(state, put_batch(batch, run.mesh))
    return digest(jax.device_get(state))


def updates(config: RunConfig, workdir) -> str:
    """The optimiser on a small problem, over the whole run's schedule."""
    total = Run(config).total_steps
    schedule = make_schedule(config, examples=1438, total_steps=total)
    tx = make_optimizer(config.optim, schedule)
    params = {"kernel": jnp.asarray([1.0, -2.0]), "bias": jnp.asarray([0.5])}
    state = tx.init(params)
    for i in range(3):
        grads = jax.tree.map(lambda p, i=i: 3 * p + i, params)
        change, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, change)
    return digest((params, [schedule(i) for i in range(0, 60, 5)]))


def objective(config: RunConfig, workdir) -> str:
    """The loss of some logits, and the penalty of some parameters."""
    run, draw = Run(config), np.random.default_rng(0)
    target = jnp.asarray(draw.dirichlet(np.ones(10), 4), jnp.float32)
    losses = run.task.loss(jnp.asarray(draw.normal(size=(4, 10)), jnp.float32), {"target": target})
    penalty = make_penalty(config.loss)
    params = {"head": {"kernel": jnp.asarray([1.0, -2.0]), "bias": jnp.asarray([0.5])}}
    return digest((losses, penalty(params) if penalty else None))


def batch(config: RunConfig, workdir) -> str:
    """The first training batch and the whole evaluation."""
    splits = Run(config).splits
    first = next(
        train_batches(
            splits.train,
            config.data,
            config.augment,
            seed=config.seed,
            batch_size=config.batch_size,
            start=0,
            stop=1,
        )
    )
    size = config.eval.batch_size
    return digest([first, *eval_batches(splits.eval, config.data, config.eval, batch_size=size)])


def growing(config: RunConfig, workdir) -> str:
    """The sizes of training images, by step."""
    return str(Run(config).image_sizes)


def names(config: RunConfig, workdir) -> str:
    """Sizes and classes of the splits."""
    splits = Run(config).splits
    return f"{len(splits.train)} {len(splits.eval)} {splits.train.class_names}"


def leaves(config: RunConfig, workdir) -> str:
    """What a whole run leaves: rows and checkpoints."""
    fit(config, workdir, quiet=True)
    rows = [(r["step"], r["split"]) for r in read_metrics(workdir / "metrics.jsonl")]
    kept = sorted(p.name for p in (workdir / "checkpoints").iterdir())
    return f"{rows} {kept}"


def ended(config: RunConfig, workdir) -> str:
    """The evaluation at the end of a run."""
    row = fit(config, workdir, quiet=True)
    return f"{row['step']} {row['loss']}"


class Noted:
    """A source that writes down who reads an example: the process and the thread."""

    def __init__(self, source: ArraySource, file: Path) -> None:
        self.source, self.file = source, file
        self.class_names, self.channels, self.name = (
            source.class_names,
            source.channels,
            source.name,
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        with self.file.open("a") as file:
            file.write(f"{os.getpid()} {threading.get_ident()}\n")
        time.sleep(0.005)  # another thread takes the next one
        return self.source[index]


def reading(config: RunConfig, workdir) -> str:
    """Who reads, and how many examples until the first batch is taken and nobody reads any more."""
    file = workdir / "reads"
    stream = train_batches(
        Noted(Run(config).splits.train, file),
        config.data,
        config.augment,
        seed=0,
        batch_size=8,
        start=0,
        stop=50,
    )
    with contextlib.closing(stream):
        next(stream)
        before = 0
        while (now := file.stat().st_size) != before:
            before = now
            time.sleep(0.5)
    readers = [tuple(line.split()) for line in file.read_text().splitlines()]
    here = {process for process, _ in readers} == {str(os.getpid())}
    return f"{here}, {len(set(readers))} threads, {len(readers)} examples"


def outcome(config: RunConfig, workdir) -> str:
    """The error that reading ends in, or that there is none."""
    try:
        return batch(config, workdir)
    except ConfigError as error:
        return str(error)


def cache(config: RunConfig, workdir) -> str:
    """Whether compiled programs lie in the folder that is named."""
    before = jax.config.jax_compilation_cache_dir
    try:
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()
        named = replace(config, compilation_cache=str(workdir / "programs"))
        config = named if config.compilation_cache else config
        fit(config, workdir / "run", quiet=True)
        return str((workdir / "programs").exists())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def processes(config: RunConfig, workdir) -> str:
    """Which place among the processes it takes (two real ones: test_distributed.py)."""
    return str(detect_process(config.mesh, 1, {}))


def layout(config: RunConfig, workdir) -> str:
    """What a device keeps of the state."""
    return str(jax.tree.map(lambda x: x.sharding.spec, Run(config).new_state()))


def patience(config: RunConfig, workdir) -> str:
    """The end of a training whose every step is not finite."""
    try:
        return str(fit(config, workdir, quiet=True))
    except RunError as error:
        return str(error).partition(";")[0]


def rereading(config: RunConfig, workdir) -> str:
    """How often an example is asked for whose storage is down."""
    asked = []

    class Down(ArraySource):
        def __getitem__(self, index):
            asked.append(index)
            raise OSError(errno.EIO, "Input/output error")

    whole = Run(config).splits.eval
    source = Down(whole.images, whole.labels, whole.class_names, whole.split)
    with pytest.raises(RunError):
        EvalReader(source, config.data, config.eval)((0, 0), np.empty_like(whole.images[0]))
    return str(asked)


def stalling(config: RunConfig, workdir) -> str:
    """How many reports half a second without a batch makes."""
    reports: list[str] = []

    def slow():
        time.sleep(0.5)
        yield {}

    with Feed(slow(), len, config.data, report=reports.append) as feed:
        next(feed)
    return str(len(reports) > 1)


def recipe(config: RunConfig, workdir) -> str:
    """The title of the report."""
    fit(config, workdir, quiet=True)
    return re.search("<title>(.*?)</title>", (workdir / "report" / "index.html").read_text())[1]


def start(config: RunConfig, workdir) -> str:
    """The state before the first step; "given" stands for a file of weights."""
    if config.init.weights:
        file, model = workdir / "given.npz", config.model
        save_weights(Run(tiny(seed=5)).new_state().variables, file, model.name, **model.changes)
        config = changed(config, "init.weights", str(file))
    return digest(jax.device_get(Run(config).new_state()))


def home(config: RunConfig, workdir) -> str:
    """Whether the training images are said to be on the devices."""
    said: list[str] = []
    options: Any = {"report": pytest.fail, "stopped": never, "say": said.append}
    dispatches(Run(config), 0, **options).close()
    return str(said)


def keys(config: RunConfig, workdir) -> str:
    """Which features of a TFDS set are read."""
    features = {"image": IMAGE, "photo": IMAGE, "label": label(2), "kind": label(3)}
    data = prepared(workdir, features)
    return str(open_splits(replace(config.data, name=data.name, dir=data.dir)).chosen)


def numbered(config: RunConfig, workdir) -> str:
    """The classes of an npz file whose labels are 0 and 2."""
    images = np.zeros((2, 8, 8), np.uint8)
    arrays = {f"x_{s}": images for s in ("train", "test")}
    arrays |= {f"y_{s}": np.array([0, 2]) for s in ("train", "test")}
    np.savez(workdir / "data.npz", **arrays)
    data = replace(config.data, name="npz", dir=str(workdir / "data.npz"))
    return str(open_splits(data).train.class_names)


def several(config: RunConfig, workdir) -> str:
    """What an npz file with a matrix of labels is read as."""
    images, labels = np.zeros((2, 8, 8), np.uint8), np.array([[1, 1, 0], [0, 0, 1]])
    arrays = {
        f"{key}_{s}": a for s in ("train", "test") for key, a in (("x", images), ("y", labels))
    }
    np.savez(workdir / "data.npz", **arrays)
    data = replace(config.data, name="npz", dir=str(workdir / "data.npz"))
    try:
        return str(open_splits(data).train[0].label)
    except ConfigError as error:
        return str(error)


def third_split(config: RunConfig, workdir) -> str:
    """The files of the split that is tested, in a folder of three splits."""
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            picture(workdir / "photos" / split / name / "1.png")
    where = {"name": "folder", "dir": str(workdir / "photos"), "eval_split": "val"}
    test = open_splits(replace(config.data, **where)).test
    return str(test and test.file_names())


def listed(config: RunConfig, workdir) -> str:
    """The files of a folder in which a GIF and hidden files lie beside PNGs."""
    for name in ("a", "b"):
        for file in ("1.png", "2.png", "3.png", "4.gif", ".h.jpg", ".hidden/5.png"):
            picture(workdir / "photos" / name / file)
    data = replace(config.data, name="folder", dir=str(workdir / "photos"))
    splits = open_splits(data)
    return str(sorted([*splits.train.file_names(), *splits.eval.file_names()]))


def keeping(config: RunConfig, workdir) -> str:
    """Which checkpoints stay of three that top-1 and loss rank differently."""
    checkpoints = Checkpoints(workdir, config.checkpoint, Classify())
    state = Run(config).new_state()
    for step, (top1, loss) in {1: (0.9, 2.0), 2: (0.5, 1.0), 3: (0.1, 3.0)}.items():
        checkpoints.save(step, state, {"window": {}, "bad": []}, {"top1": top1, "loss": loss})
    checkpoints.close()
    return str(checkpoints.steps())


def changed(config: RunConfig, path: str, value: Any) -> RunConfig:
    head, _, name = path.rpartition(".")
    if not head:
        return replace(config, **{name: value})
    return replace(config, **{head: replace(getattr(config, head), **{name: value})})


def together(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """Several changes at once: fields of one group are valid only together."""
    groups: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, name = path.rpartition(".")
        groups.setdefault(head, {})[name] = value
    for head, values in groups.items():
        inner = replace(getattr(config, head), **values) if head else None
        config = replace(config, **({head: inner} if head else values))
    return config

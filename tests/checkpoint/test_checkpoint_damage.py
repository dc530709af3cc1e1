"""Checkpoints that are damaged, incomplete, or of another run."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.run.test_fit import content
from tests.runs import tiny
from train.checkpoint.manager import Checkpoints
from train.config import CheckpointConfig, ConfigError, RunError
from train.distributed.mesh import make_mesh, replicated_sharding
from train.learn.state import TrainState
from train.learn.tasks import Classify
from train.run.fit import fit


def small_state(seed: int, classes: int = 10) -> TrainState:
    rng = np.random.default_rng(seed)
    head = jnp.asarray(rng.standard_normal((512, classes)), jnp.float32)
    params = {"stem": {"kernel": jnp.asarray(rng.standard_normal((3, 3, 8)), jnp.bfloat16)}}
    params["head"] = {"kernel": head}
    stats = {"norm": {"mean": jnp.full((8,), float(seed))}}
    opt_state = ({"trace": jax.tree.map(jnp.ones_like, params)}, (), jnp.uint32(seed))
    state = TrainState(jnp.int32(seed), params, stats, opt_state, {})
    return jax.device_put(state, replicated_sharding(make_mesh()))


def opened(folder: Path, **changes: object) -> Checkpoints:
    return Checkpoints(folder, CheckpointConfig(**changes), Classify())


def same(a: object, b: object) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 1 and 2, of states 1 and 2; checkpoint 1 is the better one."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    checkpoints = opened(folder)
    checkpoints.save(1, small_state(1), {"bad": [1]}, {"top1": 0.9})
    checkpoints.save(2, small_state(2), {"bad": [2]}, {"top1": 0.8})
    checkpoints.close()
    return folder


@pytest.fixture
def copy(two, tmp_path) -> Path:
    return shutil.copytree(two, tmp_path / "checkpoints")


def missing(path: Path, content: bytes) -> None:
    path.unlink()


def empty(path: Path, content: bytes) -> None:
    path.write_bytes(b"")


def half(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path, content: bytes, place: float = 0.5) -> None:
    i = int(len(content) * place)
    path.write_bytes(content[:i] + bytes([content[i] ^ 16]) + content[i + 1 :])


def flipped_early(path: Path, content: bytes) -> None:
    flipped(path, content, 0.1)


def flipped_late(path: Path, content: bytes) -> None:
    flipped(path, content, 0.9)


def test_every_file_damaged_in_turn(two, tmp_path):
    """The restored state is exactly that of this checkpoint or of the previous one."""
    files = sorted(p.relative_to(two) for p in (two / "2").rglob("*") if p.is_file())
    needed, fell_back = set(), 0
    for file in files:
        for damage in (missing, empty, half, flipped, flipped_early, flipped_late):
            folder = shutil.copytree(two, tmp_path / "copy")
            damage(folder / file, (folder / file).read_bytes())
            found = opened(folder).restore(small_state(9))
            what = f"{file} {damage.__name__}"
            assert same(found.state, small_state(found.step)), what
            assert found.progress == {"bad": [found.step]}, what
            if found.step == 1:
                fell_back += 1
                needed.add(re.sub("[0-9a-f]{32}", "*", str(file)))
                (note,) = found.notes
                assert note.startswith("checkpoint 2 is damaged (") and "..." not in note, note
                where = str(file.relative_to("2"))
                which = r"params[./]head[./]kernel" if "process_0" in where else re.escape(where)
                assert re.search(rf"\((state[:,] (array )?)?{which}[: ]", note), note
                aside = f"quarantined as {folder / '2.corrupt'}, which may be deleted"
                assert note.endswith(f"); {aside}; step 1 is used"), note
                assert opened(folder).steps() == [1] and (folder / "2.corrupt").is_dir(), what
            else:
                assert not found.notes and opened(folder).steps() == [1, 2], what
            shutil.rmtree(folder)
    essential = {"2/progress/metadata", "2/state/manifest.ocdbt", "2/state/d/*"}
    assert essential | {"2/state/ocdbt.process_0/d/*"} == needed
    assert fell_back >= 6 * 3 + 3


def test_the_step_is_saved_again_after_a_fallback(copy):
    (copy / "2" / "progress" / "metadata").write_text("{")
    for count in ("2.corrupt", "2.corrupt2"):
        checkpoints = opened(copy)
        assert checkpoints.restore(small_state(9)).step == 1
        checkpoints.save(2, small_state(2), {}, None)
        checkpoints.close()
        assert (copy / count).is_dir()
        assert opened(copy).restore(small_state(9)).step == 2
        (copy / "2" / "progress" / "metadata").unlink()


def test_a_run_that_fell_back_ends_as_if_nothing_had_happened(tmp_path):
    config = tiny(duration="10st", eval=replace(tiny().eval, every="5st"))
    fit(config, tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    newest = tmp_path / "damaged" / "checkpoints" / "10"
    (largest,) = sorted(newest.rglob("*/d/*"), key=lambda path: path.stat().st_size)[-1:]
    flipped(largest, largest.read_bytes())
    fit(config, tmp_path / "damaged", quiet=True)
    assert newest.with_suffix(".corrupt").is_dir()
    assert content(tmp_path / "damaged") == content(tmp_path / "whole")


def test_nothing_whole_is_never_a_new_start(copy):
    (copy / "1" / "state" / "manifest.ocdbt").unlink()
    (copy / "2" / "progress" / "metadata").write_text("[]")
    for _ in range(2):  # the second time too: nothing was quarantined
        with pytest.raises(RunError, match=r"none of.*step 2: .*not a record.*step 1: .*move them"):
            opened(copy).restore(small_state(9))
    assert opened(copy).steps() == [1, 2]


def test_an_older_one_with_unreadable_metrics_is_quarantined_too(copy):
    record = copy / "1" / "progress" / "metadata"
    record.write_text(record.read_text().replace("0.9", "0.7"))
    checkpoints = opened(copy)
    found = checkpoints.restore(small_state(9))
    assert found.step == 2 and checkpoints.steps() == [2]
    assert re.search(r"checkpoint 1 is damaged \(progress/metadata.*checksum", *found.notes)


def test_another_steps_checkpoint(copy):
    (copy / "2").rename(copy / "7")
    found = opened(copy).restore(small_state(9))
    assert found.step == 1 and "it was saved as step 2" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: small_state(9, 7),
            r"head/kernel is float32\[512,10\] there and float32\[512,7\]",
        ),
        (lambda s: s.replace(ema={"params": {"x": s.step}}), "ema/params/x is missing there"),
        (lambda s: s.replace(batch_stats={}), r"norm/mean is float32\[8\] there and missing in"),
        (lambda s: s.replace(step=s.step.astype("int16")), "step is int32.* there and int16"),
    ],
)
def test_a_checkpoint_of_another_model(copy, change, message):
    """Bad input, not damage: nothing is quarantined, and no older checkpoint is used."""
    with pytest.raises(ConfigError, match=rf"2 is a checkpoint of another model: .*{message}"):
        opened(copy).restore(change(small_state(9)))
    assert opened(copy).steps() == [1, 2]


def test_evaluation_says_what_is_left_and_touches_nothing(copy):
    sharding = replicated_sharding(make_mesh())
    (copy / "3.orbax-checkpoint-tmp").mkdir()  # of a training that runs at the same time
    flat = next(path for path in (copy / "1" / "state" / "d").iterdir())
    flat.write_bytes(flat.read_bytes()[:-9])
    before = sorted(copy.rglob("*"))
    for which in ("best", "1"):
        message = r"checkpoint 1 in .* is damaged \(.*another: --checkpoint 2$"
        with pytest.raises(ConfigError, match=message):
            opened(copy).restore_weights(which, sharding)
    found = opened(copy).restore_weights("last", sharding)
    assert found.step == 2 and same(found.variables, small_state(2).variables)
    (copy / "1" / "progress" / "metadata").write_text("")
    with pytest.raises(ConfigError, match="checkpoint 1 in"):  # it may have been the best
        opened(copy).restore_weights("best", sharding)
    assert sorted(copy.rglob("*")) == before
    (copy / "2" / "progress" / "metadata").write_text("")
    for which in ("best", "last"):
        with pytest.raises(ConfigError, match=r"damaged \(progress.*; no other one is whole"):
            opened(copy).restore_weights(which, sharding)
    shutil.rmtree(copy / "1")
    (copy / "2").rename(copy / "2.corrupt")
    with pytest.raises(ConfigError, match=r"no checkpoint in it but .* quarantined \(2.corrupt\)"):
        opened(copy).restore_weights("best", sharding)


def legacy(folder: Path) -> None:
    """Checkpoints 1 and 2 in the format of the version without digests."""
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["top1"])
    handlers = {"state": ocp.StandardCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(folder, item_handlers=handlers, options=options) as manager:
        for step in (1, 2):
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(small_state(step)),
                progress=ocp.args.JsonSave({"window": {}, "bad": [step]}),
            )
            manager.save(step, args=items, metrics={"top1": 1 / step})


def test_checkpoints_without_digests(tmp_path):
    legacy(tmp_path)
    checkpoints = opened(tmp_path)
    with pytest.raises(ConfigError, match=r"another model: .*float32\[512,10\] there"):
        checkpoints.restore(small_state(9, 3))
    found = checkpoints.restore(small_state(9))
    assert found.step == 2 and found.progress == {"window": {}, "bad": [2]} and not found.notes
    assert same(found.state, small_state(2))
    assert checkpoints.restore_weights("best", replicated_sharding(make_mesh())).step == 1
    checkpoints.save(3, found.state, {}, {"top1": 0.1})
    checkpoints.save(4, found.state, {}, None)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3, 4]  # the best is still known
    (tmp_path / "1" / "metrics" / "metrics").write_text('{"top1": 1')
    assert "1.corrupt" in opened(tmp_path).restore(small_state(9)).notes[0]


def test_what_a_kill_left_is_cleared_away(copy):
    for name in ("3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp/state", "0.deleted"):
        (copy / name).mkdir()
    (copy / "3.orbax-checkpoint-tmp" / "state" / "_METADATA").write_text("{")
    assert opened(copy).steps() == [1, 2]
    assert opened(copy).restore(small_state(9)).step == 2
    assert sorted(path.name for path in copy.iterdir()) == ["1", "2"]


def test_a_figure_that_is_not_a_number_is_not_the_best(tmp_path):
    nan = float("nan")
    for best, figures in {"loss": (nan, 0.5, nan), "top1": (nan, 0.1, nan)}.items():
        checkpoints = opened(tmp_path / best, best=best)
        for step, figure in enumerate(figures):
            checkpoints.save(step, small_state(step), {}, {best: figure})
        checkpoints.close()
        assert checkpoints.restore_weights("best", replicated_sharding(make_mesh())).step == 1


@contextlib.contextmanager
def mounted_read_only(folder: Path) -> Iterator[None]:
    """The same folder on a read-only file system."""
    for options in (["--bind"], ["-o", "remount,ro,bind"]):
        args = ["mount", *options, str(folder), str(folder)]
        mounted = subprocess.run(args, capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    yield
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_that_cannot_be_written(copy):
    message = "no checkpoint can be written to .*Read-only file system$"
    with mounted_read_only(copy):
        with pytest.raises(RunError, match=message):
            opened(copy).restore(small_state(9))
        with pytest.raises(RunError, match=message):
            opened(copy).save(3, small_state(3), {}, None)
        assert opened(copy).restore_weights("best", replicated_sharding(make_mesh())).step == 1


def test_a_folder_that_becomes_unwritable(copy):
    """The reason is reported at once, and earlier checkpoints stay."""
    checkpoints = opened(copy)
    checkpoints.save(3, small_state(3), {}, None)
    checkpoints.wait()
    with mounted_read_only(copy):
        began = time.monotonic()
        with pytest.raises(RunError, match=r"written.*: Read-only file system; the last .* step 3"):
            checkpoints.save(4, small_state(4), {}, None)
            checkpoints.wait()
        checkpoints.close()
        assert time.monotonic() - began < 10
    assert opened(copy).restore(small_state(9)).step == 3


def test_the_record_is_json_that_can_be_read(two):
    saved = json.loads((two / "2" / "progress" / "metadata").read_text())
    digests = saved["content"]["digests"]
    assert digests["params/head/kernel"].startswith("float32[512,10] ")
    assert digests["params/stem/kernel"].startswith("bfloat16[3,3,8] ")
    assert (saved["content"]["step"], saved["content"]["metrics"]) == (2, {"top1": 0.8})

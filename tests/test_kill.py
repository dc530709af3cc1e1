"""SIGKILL at random moments: the run that is restarted ends as if nothing had happened."""

import json
import random
import subprocess
import time
from pathlib import Path

from tests.runs import TINY, command, environment, resnet_jax
from tests.test_loop import content

KILLS = 10


def run_to_the_end(workdir: Path, *options: str) -> None:
    done = resnet_jax("train", "digits", "--workdir", str(workdir), *options)
    assert done.returncode == 0, done.stderr


def test_ten_kills(tmp_path):
    """Issue 2, must show 4: state bit-identical, metrics.jsonl without gaps or repeats."""
    options = [*TINY, "--duration", "300st"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run_to_the_end(whole, *options)
    rng = random.Random(0)
    kills, lives = 0, []
    while kills < KILLS:
        with subprocess.Popen(
            command("train", "digits", "--workdir", str(torn), *options),
            env=environment(PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            if rng.random() < 0.8:  # else somewhere on the way to the first step
                next((line for line in child.stdout if line.startswith("first step")), None)
            time.sleep(rng.uniform(0, 2))
            if child.poll() is None:
                child.kill()
                kills += 1
            elif kills < KILLS:  # it was done before: from the start again
                assert child.returncode == 0
                assert content(torn) == content(whole)
                torn = tmp_path / f"torn{kills}"
        if (torn / "checkpoints").is_dir():
            lives.append(
                max((int(p.name) for p in torn.glob("checkpoints/[0-9]*[0-9]")), default=0)
            )
    run_to_the_end(torn, *options)
    assert content(torn) == content(whole)
    rows = [json.loads(line) for line in (torn / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(10, 301, 10))
    assert [r["step"] for r in rows if r["split"] == "eval"] == list(range(20, 301, 20))
    assert len(set(lives)) > 2, f"the kills did not fall into the run: {lives}"

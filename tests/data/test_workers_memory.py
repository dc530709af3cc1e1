"""Batches of `data.workers` are in shared memory, which is freed when the process ends."""

import subprocess
import sys

from tests.runs import environment

SCRIPT = """
import dataclasses
import os
from pathlib import Path
from multiprocessing.shared_memory import SharedMemory
import numpy as np
from train.config import AugmentConfig, DataConfig
from train.data.pipeline import train_batches
from train.data.sources import open_splits

if __name__ == "__main__":
    data = DataConfig(name="synthetic", image_size=32, classes=4, examples=64, threads=0)
    source = open_splits(data).train
    order = {"seed": 0, "batch_size": 32, "start": 0, "stop": 2}
    (expected, _) = train_batches(source, data, AugmentConfig(), **order)
    batches = train_batches(source, dataclasses.replace(data, workers=1), AugmentConfig(), **order)
    kept = list(batches)
    assert np.array_equal(kept[0]["image"], expected["image"])
    names = [column.shm.name for batch in kept for column in batch.values()]
    left = []
    for name in names:
        try:
            SharedMemory(name)
            left.append(name)
        except FileNotFoundError:
            pass
    print(len(names) > 0, left, flush=True)
    os._exit(0)  # the arrays are alive at the end, as if a library held them
"""


def test_nothing_is_left_of_batches_that_are_alive_at_the_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {key: value for key, value in environment().items() if key != "PYTHONWARNINGS"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "True []\n" and "shared_memory" not in done.stderr

"""Of all tests and doctests: their devices, one compilation cache, a folder of their own, and the
real data where it is there.

Eight simulated CPU devices, or with RESNET_JAX_TEST_ON=gpu the GPU that is there.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.runs import cache_folder, simulated  # which does not import JAX

os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda,cpu"}[
    os.environ.get("RESNET_JAX_TEST_ON", "cpu")
]
os.environ["XLA_FLAGS"] = simulated(8)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache_folder())

import jax
import pytest

from train.runtime import set_xla_flags, use_compilation_cache

set_xla_flags()  # as the command line does

use_compilation_cache(None)

# A shell starts a command in the background (`pytest &`, nohup) with these ignored, and children
# inherit that. The tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def folder_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The working directory of fixtures that several tests share."""
    with contextlib.chdir(tmp_path_factory.mktemp("cwd")):
        yield


@pytest.fixture(autouse=True)
def folder_of_its_own(folder_of_the_session: None) -> Iterator[None]:
    """An empty working directory for each test, so that none finds what another run has left."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; its README says what is in it."""
    folder = Path(os.environ.get("RESNET_JAX_DATA", ROOT.parent / "shared" / "data")).absolute()
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there ($RESNET_JAX_DATA names another place)")
    return folder


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    """All eight; tests of a single one take the first."""
    assert len(jax.devices()) == 8
    return jax.devices()

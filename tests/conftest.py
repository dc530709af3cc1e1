"""Eight simulated devices, one compilation cache, and the real data where it is there."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/resnet-jax/tests").expanduser())
)

import jax
import pytest

from train.compilation_cache import use_compilation_cache
from train.xla_flags import set_xla_flags

set_xla_flags()  # as the command line does

use_compilation_cache(None)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; its README says what is in it."""
    folder = Path(os.environ.get("RESNET_JAX_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there ($RESNET_JAX_DATA names another place)")
    return folder


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    """All eight; tests of a single one take the first."""
    assert len(jax.devices()) == 8
    return jax.devices()

"""`bench`: runs the benchmarks of a checkout."""

import sys
from pathlib import Path

from train.config import ConfigError


def bench(args: list[str]) -> None:
    """Measures speed. The installed package has no benchmarks; a checkout has.

    Raises:
      ConfigError: this is not a checkout.
    """
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "cli.py").is_file():
        raise ConfigError(
            "bench: the benchmarks are not part of the installed package; they need a checkout of "
            "the source. Get one (git clone, or unpack the source archive), then in its folder: "
            "pip install -e . && resnet-jax bench"
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))  # an editable install finds resnet_jax and train only
    from benchmarks.cli import bench

    bench(args)

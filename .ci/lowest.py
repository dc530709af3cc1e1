"""The lowest versions that pyproject.toml allows, one NAME==VERSION a line: a constraints file.

    python .ci/lowest.py > constraints.txt
    pip install -e . pytest pytest-xdist pytest-randomly -c constraints.txt

Takes [project.dependencies]; what those need themselves is the newest. Not [test]: its linters
need newer versions of the same packages.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def lowest(requirement: str) -> str:
    """NAME==X of NAME>=X.

    >>> lowest("numpy>=2.0.0")
    'numpy==2.0.0'
    """
    parsed = Requirement(requirement)
    bounds = [each.version for each in parsed.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise SystemExit(f"pyproject.toml: {requirement!r} needs one lower bound, NAME>=VERSION")
    return f"{parsed.name}=={bounds[0]}"


def main() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    sys.stdout.writelines(f"{lowest(each)}\n" for each in content["project"]["dependencies"])


if __name__ == "__main__":
    main()

"""The wheel in an empty environment: `python .ci/wheel.py`, with the Python of that environment.

Builds the wheel, compares its files with the checkout's packages, installs it and its dependencies
into the environment (a new one: `python3.12 -m venv DIR && DIR/bin/python .ci/wheel.py`), and runs
the commands in a folder where no checkout is. Ends with an error at the first thing that is wrong.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("resnet_jax", "train")
BIN = Path(sys.executable).parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

IMAGE_AND_WEIGHTS = """
import jax, numpy, resnet_jax, train
from PIL import Image
from resnet_jax import create_model, save_weights
for package in (resnet_jax, train):
    assert "site-packages" in package.__file__, package.__file__
pixels = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), numpy.uint8)
Image.fromarray(pixels).save("photo.png")
model = create_model("test_resnet")
images = numpy.zeros((1, 64, 64, 3), numpy.float32)
variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
save_weights(variables, "test.safetensors", "test_resnet")
"""


def build(folder: Path) -> Path:
    """The wheel, from a copy: an old `build/` in the checkout would add files that are gone."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Every file of the checkout's packages, and no other, is in the wheel."""
    there = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    if packed != there:
        raise SystemExit(
            f"{wheel.name}: missing {sorted(there - packed)}, unexpected {sorted(packed - there)}"
        )
    assert any(name.endswith("/LICENSE") for name in names), names
    print(f"{wheel.name}: {len(packed)} files, {wheel.stat().st_size // 1024} KiB")


def pip(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *args], check=True)


def run(folder: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs `resnet-jax ARGS` in `folder`; the exit code must be `code`."""
    since = time.perf_counter()
    done = subprocess.run(
        [BIN / "resnet-jax", *args], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode != code:
        raise SystemExit(f"resnet-jax {args}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(f"{time.perf_counter() - since:6.1f} s  resnet-jax {' '.join(args)}", flush=True)
    return done


def check_commands(folder: Path) -> None:
    """Every command, on a run of five epochs and on random weights of a network with 1000 names."""
    subprocess.run(
        [sys.executable, "-c", IMAGE_AND_WEIGHTS], cwd=folder, env=ENVIRONMENT, check=True
    )
    assert run(folder, "--version").stdout.startswith("resnet-jax ")
    assert "resnet50" in run(folder, "models").stdout
    assert "imagenet-resnet50" in run(folder, "recipes").stdout
    for command in ("train", "eval", "predict", "convert", "plan"):
        assert "usage: resnet-jax" in run(folder, command, "--help").stdout

    run(folder, "train", "--duration", "5ep")
    report = folder / "runs" / "digits" / "report" / "index.html"
    assert "</html>" in report.read_text("utf-8")
    last = run(folder, "eval", "runs/digits").stdout.splitlines()[-1]
    assert json.loads(last)["top1"] > 0.5, last
    assert "photo.png" in run(folder, "predict", "runs/digits", "photo.png").stdout
    run(folder, "convert", "runs/digits", "digits.npz")
    weights = ("--weights", "test.safetensors")
    assert "photo.png" in run(folder, "predict", "test_resnet", "photo.png", *weights).stdout

    refused = run(folder, "bench", "step", code=2)
    assert not refused.stdout and len(refused.stderr.splitlines()) == 1, refused
    assert "need a checkout" in refused.stderr and "git clone" in refused.stderr, refused


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        check_contents(wheel)
        pip("install", str(wheel))
        work = folder / "work"
        work.mkdir()
        check_commands(work)


if __name__ == "__main__":
    main()

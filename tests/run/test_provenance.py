"""Where a result comes from: the command line that a shell takes again, versions, commit."""

import re
import shlex
import subprocess

import pytest

import resnet_jax
from tests.runs import ROOT
from train.run import provenance
from train.run.provenance import code_version, command_line, versions

COMMANDS = {
    ("/usr/bin/resnet-jax", "train", "--data.dir", "my photos"): [
        *("resnet-jax", "train", "--data.dir", "my photos")
    ],
    ("/work/train/__main__.py", "train", "x'y"): ["python", "-m", "train", "train", "x'y"],
    ("/usr/bin/pytest", "-q"): [],
    ("",): [],
}


@pytest.mark.parametrize("argv", COMMANDS)
def test_a_shell_reads_the_command_again(argv, monkeypatch):
    monkeypatch.setattr("sys.argv", list(argv))
    assert shlex.split(command_line()) == COMMANDS[argv]


def test_versions_of_what_is_not_installed_are_none():
    found = versions()
    assert {"python", "jax", "numpy", "resnet-jax"} < set(found)
    assert all(value is None or value[0].isdigit() for value in found.values())


def test_own_version_needs_no_installation(monkeypatch):
    """The package index has another project under the program's name: its version is not ours."""
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99.9")
    found = versions()
    assert found["jax"] == "99.9" and found["resnet-jax"] == resnet_jax.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", resnet_jax.__version__)


def test_citation_has_the_version():
    """`pip` reads it from the package; CITATION.cff cannot."""
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {resnet_jax.__version__}" in lines


def test_the_commit_is_that_of_this_code_only(tmp_path, monkeypatch):
    """A copy installed inside somebody's repository has none."""

    def git(*args: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *args], check=True, capture_output=True)

    git("init")
    file = tmp_path / "train" / "provenance.py"
    file.parent.mkdir()
    file.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(file))
    git("commit", "--allow-empty", "-m", "theirs")
    assert code_version() is None
    git("add", "train")
    git("commit", "-m", "ours")
    assert re.fullmatch(r"[0-9a-f]{40}", str(code_version()))
    file.write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{40}\+", str(code_version()))

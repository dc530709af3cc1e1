"""Where a result comes from: the command line that a shell takes again."""

import shlex

import pytest

from train.run.provenance import command_line, versions

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

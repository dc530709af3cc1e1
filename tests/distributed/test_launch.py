"""docs/launch.md: the checks that need no cluster."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from train.cli.arguments import parse
from train.cli.train import TrainArgs
from train.config import MeshConfig
from train.distributed.launchers import detect_process
from train.recipes import get_recipe

TEXT = (Path(__file__).parents[2] / "docs" / "launch.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def options(command: list[str], **variables: str) -> TrainArgs:
    """The parsed arguments of `resnet-jax train ...`, with its variables replaced."""
    assert command[:2] == ["resnet-jax", "train"]
    for name, value in variables.items():
        command = [re.sub(rf"\$\(?{name}\)?", value, word) for word in command]
    default = TrainArgs(get_recipe(command[2]), Path("runs"))
    return parse("train", "", TrainArgs, default, command[3:])


def test_scripts_are_bash():
    assert len(blocks("bash")) == 5
    for script in blocks("bash"):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def commands() -> list[str]:
    joined = "\n".join(blocks("bash")).replace("\\\n", " ")
    return re.findall(r"resnet-jax train [^\n\"'&]*", joined)


@pytest.mark.parametrize("command", commands())
def test_commands_are_read(command):
    variables = {"k": "1", "COORDINATOR": "host:1", "OMPI_COMM_WORLD_SIZE": "2"}
    given = options(shlex.split(command), **variables, OMPI_COMM_WORLD_RANK="1")
    assert given.workdir.name in ("resnet50", "two")
    assert given.config.mesh == MeshConfig() or detect_process(given.config.mesh, 1).index == 1


def test_the_jobset():
    """The arguments of its pods agree with its names and numbers."""
    (manifest,) = map(yaml.safe_load, blocks("yaml"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name = manifest["metadata"]["name"]
    (job,) = manifest["spec"]["replicatedJobs"]
    spec: dict[str, Any] = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and job["replicas"] == 1
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what a podFailurePolicy takes
    (container,) = spec["template"]["spec"]["containers"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    for index in range(spec["completions"]):
        given = options(container["command"], JOB_COMPLETION_INDEX=str(index))
        info = detect_process(given.config.mesh, 1)
        # a pod is called JOBSET-JOB-REPLICA-INDEX, in the subdomain JOBSET
        assert info.host == f"{name}-{job['name']}-0-0.{name}"
        assert (info.count, info.index) == (spec["parallelism"], index)
    assert spec["completions"] == spec["parallelism"] == 4

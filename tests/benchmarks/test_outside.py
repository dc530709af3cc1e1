"""Faults from outside a run, once each: a small version of `python -m benchmarks.faults`.

The runs are child processes. Each must end bit-identical to an undisturbed one.
"""

import os
import random
from pathlib import Path

import pytest

from benchmarks.faults import child_run, outside
from benchmarks.faults.campaign import Campaign


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    folder = tmp_path_factory.mktemp("outside")
    return Campaign(folder, random.Random(0), steps=200, cache=cache)


@pytest.fixture
def campaign(reference: Campaign) -> Campaign:
    """The campaign of all tests, with its counts reset."""
    reference.wrong.clear()
    reference.done.clear()
    return reference


def test_directories_with_odd_names(campaign):
    outside.paths(campaign, ("exp[1]", "up/../a*b? c"))
    assert campaign.wrong == [] and campaign.done["paths"] == 2


def test_a_second_process(campaign):
    outside.second_process(campaign)
    assert campaign.wrong == [] and campaign.done["second processes"] == 1


def test_output_that_nobody_reads(campaign):
    outside.lost_output(campaign)
    assert campaign.wrong == [] and campaign.done["outputs that nobody reads"] == 4


def test_a_closed_terminal(campaign):
    outside.lost_terminals(campaign)
    assert campaign.wrong == [] and campaign.done["closed terminals"] == 1


def test_a_signal_to_all_processes(campaign):
    """The processes of data.workers too, which a terminal's Ctrl-C reaches as well."""
    outside.hangups(campaign, 1, "--data.workers", "1")
    assert campaign.wrong == [] and campaign.done["signals to all processes"] == 1


def test_files_that_changed(campaign):
    outside.changed_files(campaign)
    assert campaign.wrong == [] and campaign.done["changes of the files"] == 3


@pytest.mark.parametrize("what", ["end", "checkpoint"])
def test_a_run_that_hangs(campaign, monkeypatch, what):
    """The wait has a limit; the message names the run, what was missing, and its last line."""
    run = campaign.workdir("hanging")
    run.args = ["sh", "-c", "echo the last line; exec sleep 600"]
    monkeypatch.setattr(child_run, "LIMIT", 0.5)

    def part(of: Campaign) -> None:
        with run.training() as process:
            run.wait(process) if what == "end" else run.wait_until(run.steps, process, what)

    campaign.attempt(part)
    message = f"part: {run.path}: no {what} within 0.5 s; its last line: the last line"
    assert campaign.wrong == [message]

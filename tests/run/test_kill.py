"""Faults at random moments: a restarted run ends bit-identical to an undisturbed one.

A small version of the campaign `python -m benchmarks.faults`.
"""

import os
import random
from pathlib import Path

from benchmarks.faults.campaign import Campaign
from benchmarks.faults.kills import kills


def test_kills_and_damage(tmp_path):
    """State bit-identical, metrics.jsonl without gaps or repeats, no wrong resume."""
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    campaign = Campaign(tmp_path, random.Random(0), steps=200, cache=cache)
    rows = campaign.reference.rows()
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(10, 201, 10))
    assert [r["step"] for r in rows if r["split"] == "eval"] == [100, 200]
    kills(campaign, 4, damages=1)
    assert campaign.wrong == []
    assert campaign.killed.total() >= 4 and campaign.killed["start"] < 4
    assert campaign.damaged.total() and campaign.done["runs to the end"] >= 1
    assert campaign.done["resumes at the newest whole checkpoint"]

"""Reports the coverage of torchvision and timm at the end of a run."""

import json
import re

from tests.parity.goldens import JSON, LEFT_OUT

collect_ignore = ["torch_reference.py"]  # no tests in it, and it needs torch


def pytest_terminal_summary(terminalreporter):
    ids = (report.nodeid for report in terminalreporter.stats.get("passed", []))
    found = (re.search(r"test_same_numbers\[(.*)\]", i) for i in ids)
    passed = {match[1] for match in found if match}
    if not passed:
        return
    networks = json.loads(JSON.read_text())["networks"]
    terminalreporter.section("parity")
    for file in dict.fromkeys(row["file"] for row in networks.values() if row["file"]):
        keys = [key for key, row in networks.items() if row["file"] == file]
        names = [key.split("/")[1] for key in keys if key in passed]
        terminalreporter.line(f"{file}: {len(names)} of {len(keys)}: {', '.join(names)}")
    for name, why in LEFT_OUT.items():
        terminalreporter.line(f"skipped: {name} ({why})")

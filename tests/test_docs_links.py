"""The links, files and modules that the README and the site name are there."""

import importlib.util
import re
import unicodedata
from pathlib import Path

import pytest
import yaml

from tests.documents import PAGES, commands, prose
from tests.runs import ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(
    r"(?<![\w/.-])(?:tests|train|resnet_jax|benchmarks|docs)/[\w./-]*\.(?:py|md|txt|jsonl?)\b"
)
MODULE = re.compile(r"^python[\d.]* -m ((?:tests|train|benchmarks)[\w.]*)")
REFERENCE = re.compile(r"^::: ([\w.]+)", re.MULTILINE)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings and of its entries of the reference."""
    text = prose(page)
    found = set(REFERENCE.findall(text))
    for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading.replace("`", "")).lower()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.is_file(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_a_link_of_the_site_stays_in_it():
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            links = [link for link in LINK.findall(prose(page)) if "://" not in link]
            assert not [link for link in links if link.startswith(("../../", "/"))]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_modules_that_are_named_are_there(page):
    for name in FILE.findall(page.read_text("utf-8")):
        assert (ROOT / name).exists(), f"{name}: no such file"
    for command in commands(page):
        if module := MODULE.match(command):
            assert importlib.util.find_spec(module[1]), f"{command}: no such module"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_every_page_is_in_the_navigation_once():
    # mkdocs.yml has no tags of YAML's own: it is plain data
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))

    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [file for part in inner for file in files(part)]

    named = files(site["nav"])
    docs = ROOT / "docs"
    assert sorted(named) == sorted(str(p.relative_to(docs)) for p in docs.rglob("*.md"))

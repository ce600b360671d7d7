"""Files, modules and commands that the documentation names are there."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from checkout import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/*/*.md")])
ROOMS = ("client", "server", "studio", "model_repository/mel_preprocess/1", "model_repository/composite/1")
COMMANDS = {point.name for point in entry_points(group="lipsync.commands")}
OF_AVATARS = {point.name for point in entry_points(group="lipsync.commands.avatars")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_modules_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    paths = set(re.findall(r"\b((?:lipsync_\w+|scripts|docs|examples|samples|tests)/[\w/.-]+\.\w+)", text))
    roots = [ROOT, *(ROOT / room for room in ROOMS), ROOT / "backends/onnxruntime"]
    made = {"docs/benchmarks-gpu.md"}  # by the reader
    assert {path for path in paths - made if not any((root / path).exists() for root in roots)} == set()
    modules = set(re.findall(r"(?:python -m|from|import) (lipsync_[\w.]+)", text))
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"(?:^|`|bin/)lipsync ([a-z][\w-]*)", text, re.MULTILINE))
    assert named <= COMMANDS
    of_avatars = re.findall(r"lipsync avatars ((?:[a-z]+\|)*[a-z]+)(?= |`|$)", text, re.MULTILINE)
    assert {name for names in of_avatars for name in names.split("|")} <= OF_AVATARS

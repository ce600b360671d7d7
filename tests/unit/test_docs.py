"""Files, modules and commands are there where the documentation, a comment, a docstring or a setting names them."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from test_house import tracked

from checkout import ROOT
from lipsync_client.registry.settings import RegistrySettings
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.serving.server_settings import Ports

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/*/*.md")])
CODE = ("client", "server", "studio", "model_repository", "backends", "scripts", "examples", "avatars")
TEXT = {"", ".css", ".html", ".js", ".pbtxt", ".py", ".sh", ".yaml"}
ROOMS = ("client", "server", "studio", "model_repository/mel_preprocess/1", "model_repository/composite/1")
COMMANDS = {point.name for point in entry_points(group="lipsync.commands")}
OF_AVATARS = {point.name for point in entry_points(group="lipsync.commands.avatars")}
MADE = {"docs/benchmarks-gpu.md"}  # by the reader
FOREIGN = {"piper.patch_voice_with_alignment"}  # of an environment of its own


def texts(kind: str) -> dict[str, str]:
    """The pages, or the sources with the settings, by their names."""
    sources = (path for path in tracked(*CODE, "server.yaml", "Makefile", ".ci") if path.suffix in TEXT)
    paths = PAGES if kind == "pages" else [path for path in sources if path.is_file()]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("kind", ["pages", "sources"])
def test_paths_that_are_named_are_there(kind: str) -> None:
    roots = [ROOT, *(ROOT / room for room in ROOMS), ROOT / "backends/onnxruntime"]
    missing = {
        (name, path)
        for name, text in texts(kind).items()
        for path in re.findall(r"\b((?:lipsync_\w+|scripts|docs|examples|samples|tests)/[\w/.-]+\.\w+)", text)
        if path not in MADE and not any((root / path).exists() for root in roots)
    }
    assert missing == set()


@pytest.mark.parametrize("kind", ["pages", "sources"])
def test_modules_that_are_named_are_there(kind: str) -> None:
    missing = {
        (name, module)
        for name, text in texts(kind).items()
        for module in re.findall(r"(?:(?:from|import) (?=lipsync_)|python -m )([a-z][\w.]*\w)", text)
        if module not in FOREIGN and not is_there(module)
    }
    assert missing == set()


@pytest.mark.parametrize("kind", ["pages", "sources"])
def test_commands_that_are_named_are_there(kind: str) -> None:
    named = r"(?:^ *|`|bin/|Next: )lipsync ([a-z][\w-]*)"
    of_avatars = r"lipsync avatars ((?:[a-z]+\|)*[a-z]+)(?= |`|$)"
    missing = set()
    for name, text in texts(kind).items():
        missing |= {(name, command) for command in set(re.findall(named, text, re.MULTILINE)) - COMMANDS}
        found = {one for several in re.findall(of_avatars, text, re.MULTILINE) for one in several.split("|")}
        missing |= {(name, command) for command in found - OF_AVATARS}
    assert missing == set()


def test_the_settings_that_replace_others_are_there() -> None:
    page = (ROOT / "docs/gateway.md").read_text()
    section = page.partition("## From a monolithic server's settings")[2].partition("\n## ")[0]
    places = [cells[2] for line in section.splitlines() if len(cells := line.split("|")) == 4]
    named = {key for place in places for key in re.findall(r"`((?:gateway|registry|ports)\.[\w.]+)`", place)}
    assert len(named) > 10
    kinds = {"gateway": GatewaySettings, "registry": RegistrySettings, "ports": Ports}
    for key in named:
        section, *keys = key.split(".")
        kind = kinds[section]
        for name in keys:
            assert name in kind.__pydantic_fields__, key
            kind = kind.__pydantic_fields__[name].annotation

"""Compares two avatars, or two versions of one: renders the same speeches with both and writes one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lipsync_client.avatar_file.install import draft_in
from lipsync_client.console import note
from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.package import pack_folder
from lipsync_studio.evaluation.comparison_page import Side, comparison_page
from lipsync_studio.evaluation.evaluate import open_session
from lipsync_studio.evaluation.recording import RenderedSpeech

PAGE = "comparison.html"


def compare(
    names: tuple[str, str], speeches: Sequence[RenderedSpeech], repository: Path | None, avatar: str, out: Path
) -> Path:
    """Write OUT/comparison.html.

    Args:
        names: of each side: an avatar's id, an avatar's source folder, or a built model repository.
        speeches: what both say.
        repository: where ids are looked up, and beside which source folders are packed; the default one if absent.
        avatar: the id that is taken from model repositories.
        out: folder for the page.

    Raises:
        ValueError: an avatar is not there, its folder is broken, or no face is found in its footage.
    """
    sides = []
    for name in names:
        with opened(name, repository or home.repository(), avatar) as pipeline:
            session, facts = open_session(pipeline, None)
            sides.append(Side(name, facts, [session.record(speech) for speech in speeches]))
    out.mkdir(parents=True, exist_ok=True)
    page = out / PAGE
    page.write_text(comparison_page(*sides), encoding="utf-8")
    note(f"written: {page}")
    return page


@contextmanager
def opened(name: str, repository: Path, avatar: str) -> Iterator[LocalPipeline]:
    """The pipeline of one side. A source folder is packed into a folder that is removed afterwards."""
    folder = Path(name)
    if (folder / "avatar.yaml").is_file():
        with draft_in(repository) as draft:
            yield LocalPipeline(repository, pack_folder(folder, draft, repository), packed=draft)
    elif (folder / "mel_preprocess" / "config.pbtxt").is_file():
        yield LocalPipeline(folder, avatar)
    else:
        yield LocalPipeline(repository, name)

"""`lipsync render` and `lipsync frames`: turn a speech file into a video, or into pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lipsync_client import wire
from lipsync_client.cli.common import LOAD_TIMEOUT, Headers, Json, Server, TokenFile, access, show
from lipsync_client.cli.marks import SignCert, SignKey, SignTime, Unmarked, credentials
from lipsync_client.cli.tables import RenderStats, render_table, slow_advice
from lipsync_client.client import Client
from lipsync_client.console import note, notes
from lipsync_client.errors import LipsyncError
from lipsync_client.media.audio import read_audio
from lipsync_client.media.input_file import seekable
from lipsync_client.media.video import format_of, video_file, write_video

Speech = Annotated[Path, typer.Argument(help="An audio or video file of any kind; - reads the standard input.")]
AvatarName = Annotated[str, typer.Option("--avatar", help="The avatar; `lipsync avatars` lists all.")]
Chunk = Annotated[int, typer.Option("--chunk", min=1, help="Frames in a request: more are faster, fewer come sooner.")]
FirstChunk = Annotated[int, typer.Option("--first-chunk", min=1, help="Frames in the first request.")]
InFlight = Annotated[int, typer.Option("--in-flight", min=1, help="Requests in flight at once.")]
TimeOut = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that one request may take.")]


def render(
    speech: Speech,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .mp4, .mov, .m4v, .mkv or .webm.")],
    avatar: AvatarName = wire.SHIPPED_AVATAR,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    chunk: Chunk = 25,
    first_chunk: FirstChunk = 4,
    in_flight: InFlight = 3,
    timeout: TimeOut = 30.0,
    unmarked: Unmarked = False,
    sign_cert: SignCert = None,
    sign_key: SignKey = None,
    sign_time: SignTime = None,
    as_json: Json = False,
) -> None:
    """Make a video of a talking face, with the sound of the speech. The output's name says the format.

    Example: `lipsync render speech.wav -o talk.mp4 --avatar demo`
    """
    place = video_file(output)  # before the server is asked
    if place.exists() and speech.exists() and place.samefile(speech):
        raise LipsyncError(f"{output} is the speech itself: give another file with -o.")
    signer = credentials(sign_cert, sign_key, sign_time)
    if signer:
        signer.check(format_of(output).container, not unmarked)
    allowed = access(token_file, headers)
    with (
        seekable(speech) as sound,
        Client(server, timeout=timeout, **allowed) as client,
        rendering(client, sound, avatar=avatar, chunk=chunk, first_chunk=first_chunk, in_flight=in_flight) as pictures,
    ):
        fps = client.timeline().fps
        write_video(output, pictures, fps=fps, sound=sound, mark=not unmarked, credentials=signer)
        figures = pictures.figures(client.timeline().fps)
    show(figures, as_json, render_table(figures))
    note(f"Wrote {output}")
    _say_if_slow(figures, pictures.preset)


def frames(
    speech: Speech,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new or empty folder for the pictures.")],
    avatar: AvatarName = wire.SHIPPED_AVATAR,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    chunk: Chunk = 25,
    first_chunk: FirstChunk = 4,
    in_flight: InFlight = 3,
    timeout: TimeOut = 30.0,
    as_json: Json = False,
) -> None:
    """Write the pictures of a talking face as numbered JPEG files: frame_000000.jpg and so on.

    Example: `lipsync frames speech.wav -o pictures`
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LipsyncError(f"{output} is not an empty folder: give a new one with -o.")
    allowed = access(token_file, headers)
    with (
        seekable(speech) as sound,
        Client(server, timeout=timeout, **allowed) as client,
        rendering(client, sound, avatar=avatar, chunk=chunk, first_chunk=first_chunk, in_flight=in_flight) as pictures,
    ):
        output.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (output / f"frame_{picture.index:06d}.jpg").write_bytes(picture.jpeg)
        figures = pictures.figures(client.timeline().fps)
    show(figures, as_json, render_table(figures))
    note(f"Wrote {pictures.count} pictures to {output}")
    _say_if_slow(figures, pictures.preset)


@contextmanager
def rendering(
    client: Client, speech: str | os.PathLike[str], *, avatar: str, chunk: int, first_chunk: int, in_flight: int
) -> Iterator[RenderStats]:
    """Render a file with a progress bar, and measure it. At the end, requests in flight are cancelled."""
    timeline = client.timeline()
    facts = client.avatar(avatar, timeout=LOAD_TIMEOUT)  # a gateway loads it if necessary
    samples = read_audio(speech, rate=timeline.sample_rate, notice=note)
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    frames = client.render(samples, avatar=avatar, chunk=chunk, first_chunk=first_chunk, in_flight=in_flight)
    with closing(frames), Progress(*columns, console=notes) as bar:
        task = bar.add_task("", total=timeline.frame_count(len(samples)))
        yield RenderStats(frames, lambda: bar.advance(task), facts.preset)


def _say_if_slow(figures: dict[str, Any], preset: str) -> None:
    if advice := slow_advice(figures, preset):
        note(advice)

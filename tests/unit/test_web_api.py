"""Videos over HTTP: a text or a file in, a video out as it grows; limits, refusals, and places that are freed."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import av
import grpc
import numpy as np
import pytest
from client_fake import running
from PIL import Image
from tritonclient.utils import serialize_byte_tensor
from web_fake import WAIT_S, WebFake, serving

from lipsync_client.voices.voice import Sound
from lipsync_client.voices.voices import Voices
from lipsync_client.web import openapi, videos
from lipsync_client.web.settings import Settings
from lipsync_composite.mark import XMP
from live_clock import TestClock

SPEECH = (8000 * np.sin(np.arange(48_000) / 9)).astype("<i2").tobytes()  # 3 s


class PictureFake(WebFake):
    """Its talking frames are pictures. `hold` keeps it from answering past a frame."""

    def __init__(self) -> None:
        super().__init__()
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (200, 40, 40)).save(file, "JPEG")
        self._jpeg = file.getvalue()
        self.fails_from: int | None = None
        self.hold: tuple[int, threading.Event] | None = None

    def ModelConfig(self, request, context):
        answer = super().ModelConfig(request, context)
        if request.name == "mel_preprocess":
            answer.config.parameters["max_frames"].string_value = "32"
        return answer

    def _answer(self, values, first, count):
        if self.hold and first >= self.hold[0]:
            self.hold[1].wait(WAIT_S)
        answer = super()._answer(values, first, count)
        pictures = np.array([self._jpeg] * count, dtype=object)
        answer.raw_output_contents[0] = serialize_byte_tensor(pictures).item()
        return answer

    def ModelInfer(self, request, context):
        values = {one.name: raw for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        first = int(np.frombuffer(values.get("FIRST_FRAME", bytes(8)), np.int64)[0])
        if self.fails_from is not None and first >= self.fails_from:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this frame is not to be had")
        return super().ModelInfer(request, context)


class Tone:
    name = "tone"
    languages = frozenset({"en"})

    async def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        yield Sound(SPEECH, 16_000)


@pytest.fixture
def fake() -> Iterator[PictureFake]:
    with running(PictureFake()) as server:
        yield server


class Answer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def begin(self) -> Answer:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        status, *lines = head.decode().strip().split("\r\n")
        self.status = int(status.split()[1])
        pairs = [line.split(": ", 1) for line in lines]
        self.headers = {name.lower(): value for name, value in pairs}
        return self

    async def piece(self) -> bytes:
        """The next chunk; empty at the end. Raises ValueError or IncompleteReadError if the connection ends before."""
        size = int(await asyncio.wait_for(self.reader.readline(), WAIT_S) or b"no", 16)
        return (await asyncio.wait_for(self.reader.readexactly(size + 2), WAIT_S))[:-2]

    async def body(self) -> bytes:
        if "content-length" in self.headers:
            return await self.reader.readexactly(int(self.headers["content-length"]))
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def problem(self) -> dict[str, str]:
        return dict(json.loads(await self.body()))


@asynccontextmanager
async def asked(server: Any, method: str, path: str, body: bytes = b"", **headers: str) -> AsyncIterator[Answer]:
    reader, writer = await asyncio.open_connection(*server.host.split(":"))
    lines = {"Host": server.host, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    try:
        yield await Answer(reader, writer).begin()
    finally:
        writer.close()


def posted(server: Any, **values: Any) -> Any:
    return asked(server, "POST", "/v1/videos", json.dumps(values).encode(), Content_Type="application/json")


def upload(server: Any, body: bytes, query: str = "", **headers: str) -> Any:
    return asked(server, "POST", f"/v1/videos{query}", body, **{"Content_Type": "audio/wav", **headers})


def wav(seconds: float = 3.0) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as speech:
        speech.setparams((1, 2, 16_000, 0, "NONE", ""))
        speech.writeframes((SPEECH * (int(seconds // 3) + 1))[: int(seconds * 32_000)])
    return file.getvalue()


def check_video(data: bytes, kind: str = "mp4", frames: int = 75) -> None:
    assert XMP in data or kind == "webm"
    with av.open(io.BytesIO(data)) as file:
        assert len(list(file.decode(video=0))) == frames
    with av.open(io.BytesIO(data)) as file:
        sound = sum(block.samples / block.sample_rate for block in file.decode(audio=0))
    assert abs(sound - frames / 25) < 0.15


async def progress(server: Any, answer: Answer) -> dict[str, Any]:
    async with asked(server, "GET", answer.headers["location"]) as told:
        return dict(json.loads(await told.body()))


async def until_state(server: Any, answer: Answer, state: str) -> dict[str, Any]:
    for _ in range(200):
        if (found := await progress(server, answer))["state"] == state:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(found)


def run(main: Any, fake: PictureFake, *, voices: Any = None, **settings: Any) -> None:
    async def served() -> None:
        clock = TestClock()
        async with serving(fake, clock, voices=voices or Voices([Tone()]), **settings) as server:
            await main(server)

    asyncio.run(asyncio.wait_for(served(), 120))


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_a_text_becomes_a_marked_video(fake: PictureFake, kind: str) -> None:
    async def main(server: Any) -> None:
        async with posted(server, text="Hello", format=kind) as answer:
            assert (answer.status, answer.headers["content-type"]) == (200, f"video/{kind}")
            assert answer.headers["lipsync-frames"] == "75"
            check_video(await answer.body(), kind)
            assert (await progress(server, answer))["state"] == "done"

    run(main, fake)


def test_a_sound_file_becomes_a_video(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        async with upload(server, wav(), "?avatar=demo&format=mp4") as answer:
            check_video(await answer.body())

    run(main, fake)


def test_the_video_comes_while_it_is_made_and_its_progress_is_told(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        fake.hold = 50, threading.Event()
        async with posted(server, text="Hello") as answer:
            first = await answer.piece()
            assert first[4:8] == b"ftyp" and XMP in first
            found = await progress(server, answer)
            assert found["state"] == "working" and 25 < found["frames"] <= 54 and found["of"] == 75
            fake.hold[1].set()
            check_video(first + await answer.body())

    run(main, fake)


def test_a_server_that_fails_in_the_middle_leaves_an_answer_without_end(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        fake.fails_from = 40
        async with posted(server, text="Hello") as answer:
            with pytest.raises((asyncio.IncompleteReadError, ValueError)):
                await answer.body()
            found = await until_state(server, answer, "failed")
            assert "not to be had" in found["text"]

    run(main, fake)


def test_a_caller_that_goes_frees_its_place(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        fake.hold = 50, threading.Event()
        async with posted(server, text="Hello") as answer:
            await answer.piece()
            async with posted(server, text="Hello") as second:
                assert second.status == 503 and second.headers["retry-after"] == "5"
                assert (await second.problem())["reason"] == "full"
        await until_state(server, answer, "abandoned")
        fake.hold[1].set()
        async with posted(server, text="Hello") as third:
            check_video(await third.body())

    run(main, fake, max_videos=1)


def test_refusals_say_what_is_allowed(fake: PictureFake) -> None:
    cases = [
        (lambda s: posted(s, text="Hello", avatar="nobody"), 404, "no avatar 'nobody'"),
        (lambda s: posted(s, text="Hello", format="gif"), 400, "allowed: mp4, webm"),
        (lambda s: posted(s, text="Hello", txt=""), 400, "no field 'txt'"),
        (lambda s: posted(s, text=3), 400, "text must be a string"),
        (lambda s: posted(s, text="a" * 21), 413, "21 characters; 20 are allowed"),
        (lambda s: posted(s, text="你好"), 422, "speaks Chinese"),
        (lambda s: posted(s), 422, "nothing in that text"),
        (lambda s: asked(s, "POST", "/v1/videos", b"[", Content_Type="application/json"), 400, "not valid JSON"),
        (lambda s: asked(s, "POST", "/v1/videos", b"[]", Content_Type="application/json"), 400, "a JSON object"),
        (lambda s: asked(s, "POST", "/v1/videos", b"text=a", Content_Type="text/plain"), 415, "audio/wav"),
        (lambda s: upload(s, b"RIFF nonsense"), 422, "no sound file that can be read"),
        (lambda s: upload(s, b"0" * 400_001), 413, "more than 400000 bytes"),
        (lambda s: upload(s, wav(11)), 422, "10 s long at most"),
        (lambda s: asked(s, "GET", "/v1/videos/none"), 404, "no such video"),
    ]

    async def main(server: Any) -> None:
        for ask, status, words in cases:
            async with ask(server) as answer:
                assert answer.status == status, words
                problem = await answer.problem()
                assert words in problem["text"] and "/tmp" not in problem["text"]
        async with posted(server, text="Hello") as answer:
            check_video(await answer.body())

    run(main, fake, text_chars=20, upload_bytes=400_000, video_s=10.0, max_videos=1)


def test_the_token_is_asked_for_and_other_sites_pages_are_refused(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        for path in ("/v1/avatars", "/v1/voices", "/v1/videos/none"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                async with asked(server, "GET", path, **headers) as answer:
                    assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
        async with upload(server, wav()) as answer:
            assert answer.status == 401
        right = {"Authorization": "Bearer secret"}
        async with asked(server, "GET", "/v1/avatars", **right) as answer:
            assert json.loads(await answer.body()) == {"avatars": [{"id": "demo"}]}
        async with asked(server, "GET", "/v1/voices", **right) as answer:
            assert json.loads(await answer.body()) == {"voices": [{"name": "tone", "languages": ["en"]}]}
        async with upload(server, wav(), **right, Origin="http://evil.example.org") as answer:
            assert answer.status == 403
        async with upload(server, wav(), **right) as answer:
            check_video(await answer.body())

    run(main, fake, token="secret")


def test_without_a_lip_sync_server_the_answer_is_503(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        fake.fails_from = 0
        async with posted(server, text="Hello") as answer:
            assert answer.status == 422 and "not to be had" in (await answer.problem())["text"]

    run(main, fake)


def test_the_description_names_every_path_and_the_limits(fake: PictureFake) -> None:
    async def main(server: Any) -> None:
        async with asked(server, "GET", "/v1/openapi.json") as answer:
            described = json.loads(await answer.body())
        assert described == json.loads(json.dumps(openapi.describe(Settings())))
        paths = {(path, method) for path, methods in described["paths"].items() for method in methods}
        assert paths == {
            ("/v1/avatars", "get"),
            ("/v1/voices", "get"),
            ("/v1/videos", "post"),
            ("/v1/videos/{name}", "get"),
            ("/v1/openapi.json", "get"),
        }
        text = described["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert text["properties"]["text"]["maxLength"] == Settings().text_chars

    run(main, fake)


def test_an_encoder_at_work_is_waited_for_before_it_is_closed() -> None:
    """A closed encoder that a thread still uses would end the process."""
    begun, ended = threading.Event(), threading.Event()

    def encode() -> bytes:
        begun.set()
        assert not ended.wait(0.3)
        ended.set()
        return b""

    async def main() -> None:
        task = asyncio.create_task(videos._in_thread(encode))
        await asyncio.to_thread(begun.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())

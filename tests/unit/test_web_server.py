"""The page's server: speech in, frames out, and nobody harms anybody. A real WebSocket, a fake lip-sync server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator

import grpc
import numpy as np
import pytest
from client_fake import running
from live_fake import idle_picture
from web_fake import RATE, WAIT_S, Browser, Shown, WebFake, serving
from websockets.exceptions import InvalidStatus

from lipsync_client import LipsyncError
from lipsync_client.voices.voice import Sound
from lipsync_client.voices.voices import Voices
from live_clock import run

SPEECH = np.random.default_rng(1).integers(-20000, 20000, RATE * 2 + 100).astype("<i2").tobytes()
FRAMES = 51


@pytest.fixture
def fake() -> Iterator[WebFake]:
    with running(WebFake()) as server:
        yield server


async def speak(browser: Browser, pcm: bytes = SPEECH, piece: int = 3002) -> None:
    for start in range(0, len(pcm), piece):
        await browser.sound(pcm[start : start + piece])
    await browser.tell("end")


def talking(browser: Browser) -> list[Shown]:
    return [frame for frame in browser.frames if frame.speech_frame >= 0]


def check_spoken(browser: Browser, pcm: bytes = SPEECH) -> None:
    frames = talking(browser)
    assert [frame.speech_frame for frame in frames] == list(range(len(frames)))
    assert b"".join(frame.sound for frame in frames)[: len(pcm)] == pcm
    assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert [frame.index for frame in browser.frames] == list(range(len(browser.frames)))


def test_speech_comes_back_sample_for_sample_with_its_pictures(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.open() as browser:
            welcome = await browser.hello()
            assert (welcome["avatar"], welcome["fps"], welcome["width"]) == ("demo", 25, 64)
            assert welcome["look_ahead_s"] == 0.11
            await browser.until_frame(lambda frame: frame.index == 5)
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)
            idle = await browser.until_frame(lambda frame: not frame.speaking)
            check_spoken(browser)
            assert len(talking(browser)) == FRAMES
            assert idle.jpeg.startswith(idle_picture(0)[:-1]) and not idle.sound

    run(main, clock)


def test_after_the_answer_to_an_interruption_nothing_of_the_speech_comes(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.page() as browser:
            await speak(browser)
            await browser.until_frame(lambda frame: frame.speech_frame == 3)
            await speak(browser)  # waits behind the first
            await browser.tell("interrupt")
            await browser.until_told("interrupted")
            before = len(browser.frames)
            assert before < FRAMES
            idle = await browser.until_frame(lambda frame: True)
            assert not idle.speaking  # at once
            await speak(browser, SPEECH[: RATE * 2])
            await browser.until_frame(lambda frame: frame.last)
            again = [frame for frame in browser.frames[before:] if frame.speech_frame >= 0]
            assert len(again) == 25
            assert b"".join(frame.sound for frame in again) == SPEECH[: RATE * 2]
            assert again[0].speech > browser.frames[before - 1].speech

    run(main, clock)


class FakeVoice:
    name = "fake"
    languages = frozenset({"en"})

    async def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        if "?" in text:
            raise LipsyncError("That cannot be spoken.")
        half = len(SPEECH) // 4 * 2
        yield Sound(SPEECH[:half], RATE)
        yield Sound(SPEECH[half:], RATE)


def test_text_is_spoken_and_one_that_cannot_be_is_reported(fake, clock) -> None:
    async def main() -> None:
        async with (
            serving(fake, clock, voices=Voices([FakeVoice()]), text_chars=20) as server,
            server.open() as browser,
        ):
            welcome = await browser.hello()
            assert (welcome["voice"], welcome["voices"]) == ("fake", [{"name": "fake", "languages": ["en"]}])
            await browser.tell("say", text="?")
            assert "nothing in that text" in (await browser.until_told("error"))["text"]
            await browser.tell("say", text="hello", language="de")
            assert "(fake) speaks de" in (await browser.until_told("error"))["text"]
            await browser.tell("say", text="hello", voice="nobody")
            assert "no voice 'nobody'" in (await browser.until_told("error"))["text"]
            await browser.tell("say", text="what?")
            assert "cannot be spoken" in (await browser.until_told("error"))["text"]
            await browser.tell("say", text="a" * 21)
            assert "21 characters; 20 are allowed" in (await browser.until_told("error"))["text"]
            await browser.tell("say", text="hello")
            await browser.until_frame(lambda frame: frame.last)
            check_spoken(browser)

    run(main, clock)


def test_without_a_synthesiser_text_is_refused_and_the_connection_goes_on(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.open() as browser:
            assert (await browser.hello())["voice"] is None
            await browser.tell("say", text="hello")
            error = await browser.until_told("error")
            assert error["reason"] == "voice" and "cannot speak text" in error["text"]
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)

    run(main, clock)


def test_a_browser_that_takes_no_frames_gets_a_window_and_is_ended(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, window=10) as server, server.page() as browser:
            taken = await browser.until_frame(lambda frame: frame.index == 20)
            server.set(hello_s=0.2)  # not before: a busy machine may take longer for the hello
            browser.takes = False
            code, why = await browser.until_closed()
            assert (code, browser.frames[-1].index) == (4408, taken.index + 10) and "taken no frame" in why

    run(main, clock)


BAD = [
    "no JSON",
    "[1]",
    '{"kind": "end"}',
    '{"type": "dance"}',
    '{"type": "say", "text": 5}',
    '{"type": "taken", "index": 4000000000}',
    '{"type": "taken", "index": true}',
    b"",
    b"\x02\0\0\0",
    b"\x07\0\0\0\x40\x1f\0\0\0\0",
    b"\x02\0\0\0\x01\0\0\0\0\0",
    b"\x02\0\0\0\x40\x1f\0\0\0\0\0",
]


def test_whoever_misbehaves_is_ended_with_a_sentence_and_nobody_else_notices(fake, clock) -> None:
    async def misbehave(server, message: str | bytes) -> None:
        async with server.page() as bad:
            await bad.socket.send(message)
            code, why = await bad.until_closed()
            assert code == 4400 and why.endswith((".", "reload.")), message

    async def flood(server) -> None:
        async with server.page() as bad:
            for _ in range(2000):
                await bad.tell("interrupt")
            code, why = await bad.until_closed()
            assert code == 4429 and "messages" in why

    async def send_too_large(server) -> None:
        async with server.page() as bad:
            await bad.socket.send(bytes(300 << 10))
            assert (await bad.until_closed())[0] == 1009

    async def main() -> None:
        async with serving(fake, clock, max_sessions=30) as server, server.page() as good:
            listening = asyncio.create_task(good.until_frame(lambda frame: frame.last))
            await asyncio.gather(
                speak(good), *(misbehave(server, message) for message in BAD), flood(server), send_too_large(server)
            )
            await asyncio.wait_for(listening, WAIT_S)
            check_spoken(good)

    run(main, clock)


HELLOS = [
    ({"type": "hello", "version": 3}, "versions 1 and 2"),
    ({"type": "hello", "version": 1, "sound_rate": 1_000}, "sound_rate"),
    ({"type": "hello", "version": 1, "sound_rate": 8_001}, "multiple of 25"),
    ({"type": "hello", "version": 1, "sound_rate": "8000"}, "sound_rate"),
    ({"type": "interrupt"}, "must be 'hello'"),
]


@pytest.mark.parametrize(("message", "named"), HELLOS)
def test_a_wrong_hello_is_refused_by_name(fake, clock, message, named) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.open() as browser:
            await browser.socket.send(json.dumps(message))
            code, why = await browser.until_closed()
            assert code == 4400 and named in why

    run(main, clock)


def test_who_says_nothing_or_has_not_the_token_gets_no_session(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, token="právě") as server:
            for token in ({}, {"token": "wrong"}, {"token": "\ud800"}):
                async with server.open() as browser:
                    await browser.tell("hello", version=1, sound_rate=RATE, **token)
                    code, why = await browser.until_closed()
                    assert code == 4401 and "token" in why
            assert not fake.idle  # nobody asked the lip-sync server for anything
            async with server.page(token="právě") as browser:
                await browser.until_frame(lambda frame: frame.index == 1)
            server.set(hello_s=0.2)
            async with server.open() as browser:
                assert await browser.until_closed() == (4408, "No hello within 0.2 s.")

    run(main, clock)


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"Origin": "https://talk.example.org"}, True),
        ({"Origin": "https://evil.example.org"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[::1"}, False),
    ],
)
def test_pages_of_other_origins_are_kept_out(fake, clock, headers, let_in) -> None:
    async def main() -> None:
        async with serving(fake, clock, allow_origins=("https://talk.example.org",)) as server:
            try:
                async with server.open(**headers) as browser:
                    await browser.hello()
                    came_in = True
            except InvalidStatus as refusal:
                assert refusal.response.status_code == 403
                came_in = False
            assert came_in == let_in

    run(main, clock)


def test_no_more_than_max_sessions_are_served_and_a_place_is_free_again(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, max_sessions=1) as server:
            async with server.page(), server.open() as second:
                await second.tell("hello", version=1, sound_rate=RATE)
                code, why = await second.until_closed()
                assert code == 1013 and "1 of 1 places" in why
            while True:  # the place is free a moment after the connection has ended
                async with server.open() as third:
                    await third.tell("hello", version=1, sound_rate=RATE)
                    if (await third.until(lambda news: isinstance(news, dict)))["type"] == "welcome":
                        return

    run(main, clock)


def test_sound_beyond_what_may_wait_is_left_out_and_said_so(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, waiting_s=3.0) as server, server.open(takes=False) as browser:
            await browser.hello()
            for _ in range(20):  # 20 s; the session takes 5 and nobody looks
                await browser.sound(bytes(2 * RATE))
            error = await browser.until_told("error")
            assert error["reason"] == "too_much"
            await browser.tell("interrupt")
            await browser.until_told("interrupted")
            browser.takes = True
            await browser.tell("taken", index=browser.frames[-1].index)
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)

    run(main, clock)


def test_a_page_that_nobody_uses_is_paused_but_not_one_that_speaks(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, idle_s=1.0, window=5) as server, server.page() as browser:
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)
            check_spoken(browser)
            code, why = await browser.until_closed()
            assert code == 4408 and "Nobody has used" in why
            after = [frame for frame in browser.frames if frame.index > talking(browser)[-1].index]
            assert 24 <= len(after) <= 26

    run(main, clock)


def test_without_a_lip_sync_server_the_page_learns_why(fake, clock) -> None:
    async def main() -> None:
        fake.url = "127.0.0.1:9"
        async with serving(fake, clock) as server, server.open() as browser:
            await browser.tell("hello", version=1, sound_rate=RATE)
            code, why = await browser.until_closed()
            assert code == 1013 and "not available" in why and "127.0.0.1" not in why

    run(main, clock)


def test_a_failing_server_is_reported_and_the_next_speech_is_spoken(fake, clock) -> None:
    broken = threading.Event()
    broken.set()

    def fail(number, seen, context) -> None:
        if broken.is_set():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too tired")

    fake.on_request = fail

    async def main() -> None:
        async with serving(fake, clock) as server, server.page() as browser:
            await speak(browser)
            error = await browser.until_told("error")
            assert error["reason"] == "failed" and "too tired" not in error["text"]
            broken.clear()
            await browser.tell("interrupt")  # as the page does: what is left of that speech is not wanted
            await browser.until_told("interrupted")
            browser.frames.clear()
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)
            assert len(talking(browser)) == FRAMES

    run(main, clock)

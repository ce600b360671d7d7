"""Version 2 of the WebSocket: the footage once, then patches. A real WebSocket, a fake lip-sync server."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from client_fake import AVATAR, running
from live_fake import idle_picture, patch_box
from test_web_page import get
from test_web_server import check_spoken, speak, talking
from web_fake import LEFT_OUT, PATCH, PLAIN, WHOLE, Browser, WebFake, serving

from lipsync_client.web.faces import Faces
from live_clock import run

KEY = f"{int(AVATAR['avatar_key']):016x}"
FOOTAGE = int(AVATAR["footage_frames"])


@pytest.fixture
def fake() -> Iterator[WebFake]:
    with running(WebFake()) as server:
        yield server


async def have(browser: Browser, *frames: int) -> None:
    """Tell the server that footage frames are here, and wait until it knows."""
    browser.takes = False
    told = (await browser.until_frame(lambda frame: True)).index
    browser.takes = True
    await browser.tell("taken", index=told, have=list(frames))
    await browser.until_frame(lambda frame: frame.index > told + 12)  # more than what was on its way


def test_footage_comes_until_it_is_there_and_then_idle_frames_are_a_header(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, window=10) as server, server.open(takes=False) as browser:
            welcome = await browser.hello(version=2)
            assert welcome["version"] == 2
            assert welcome["footage"] == {"path": f"footage/demo/{KEY}/", "frames": FOOTAGE}
            for _ in range(5):
                frame = await browser.until_frame(lambda frame: True)
                assert (frame.flags, frame.jpeg) == (WHOLE | PLAIN, idle_picture(frame.footage))
            await have(browser, *range(FOOTAGE))
            for _ in range(FOOTAGE):
                frame = await browser.until_frame(lambda frame: True)
                assert (frame.flags, frame.jpeg, frame.sound) == (0, b"", b"")
                assert frame.footage == frame.index % FOOTAGE

    run(main, clock)


def test_talking_frames_are_patches_on_footage_that_is_there(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.open() as browser:
            await browser.hello(version=2)
            await browser.until_frame(lambda frame: frame.index == 3)
            await have(browser, *range(FOOTAGE))
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)
            check_spoken(browser)
            assert len(talking(browser)) == 51
            for frame in talking(browser):
                assert frame.flags == PATCH
                assert frame.box == patch_box(frame.footage)
                assert frame.jpeg.endswith(b"@%d" % frame.footage)

    run(main, clock)


def test_an_avatar_without_patches_comes_in_whole_frames(fake, clock) -> None:
    fake.patches = False

    async def main() -> None:
        async with serving(fake, clock) as server, server.open() as browser:
            await browser.hello(version=2)
            await speak(browser)
            await browser.until_frame(lambda frame: frame.last)
            check_spoken(browser)
            assert {frame.flags for frame in talking(browser)} == {WHOLE}

    run(main, clock)


def test_on_a_slow_connection_pictures_are_left_out_and_no_sound(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, window=25) as server, server.open() as browser:
            await browser.hello(version=2)
            await browser.until_frame(lambda frame: frame.index == 3)
            await have(browser, *range(FOOTAGE))
            await speak(browser)
            await browser.until_frame(lambda frame: frame.speech_frame == 3)
            browser.takes = False
            while not browser.frames[-1].flags & LEFT_OUT:
                await browser.until_frame(lambda frame: True)
            begun = browser.frames[-1].index
            await browser.until_frame(lambda frame: frame.index == begun + 5)
            assert all(frame.flags == LEFT_OUT and not frame.jpeg for frame in browser.frames[-5:])
            browser.takes = True  # the connection is good again
            await browser.tell("taken", index=browser.frames[-1].index)
            await browser.until_frame(lambda frame: frame.last)
            check_spoken(browser)  # all of the sound, and every frame's number
            assert talking(browser)[-1].flags == PATCH

    run(main, clock)


@pytest.mark.parametrize("listed", [[-1], [FOOTAGE], ["0"], [True], 3, {"0": 1}])
def test_a_wrong_list_of_footage_ends_the_connection(fake, clock, listed) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.open(takes=False) as browser:
            await browser.hello(version=2)
            await browser.until_frame(lambda frame: frame.index == 2)
            await browser.tell("taken", index=1, have=listed)
            code, why = await browser.until_closed()
            assert code == 4400 and "have" in why

    run(main, clock)


def test_a_replaced_avatars_footage_is_announced_and_comes_anew(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server, server.open() as browser:
            await browser.hello(version=2)
            await browser.until_frame(lambda frame: frame.index == 3)
            await have(browser, *range(FOOTAGE))
            fake.facts["avatar_key"] = "78"
            await speak(browser)
            news = await browser.until_told("footage")
            assert news["path"] == f"footage/demo/{78:016x}/"
            frame = await browser.until_frame(lambda frame: frame.speech_frame < 0 and not frame.speaking)
            assert (frame.flags, frame.jpeg) == (WHOLE | PLAIN, idle_picture(frame.footage, 78))

    run(main, clock)


async def block(server, path: str, more: str = "") -> tuple[str, dict[str, str], list[bytes]]:
    status, headers, body = await get(server.host, path, server.host, f"{more}Connection: close\r\n")
    data, frames = body.encode(), []
    while "200" in status and data:
        (size,) = struct.unpack_from("<I", data)
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return status, headers, frames


def test_blocks_of_footage_come_in_any_order_and_are_kept_for_ever(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server:
            for first, last in ((4, 9), (0, 3), (2, 6), (9, 9)):
                status, headers, frames = await block(server, f"/footage/demo/{KEY}/{first}-{last}")
                assert "200" in status
                assert frames == [idle_picture(index) for index in range(first, last + 1)]
                assert "immutable" in headers["cache-control"]
            asked = len(fake.idle)
            await block(server, f"/footage/demo/{KEY}/1-8")
            assert len(fake.idle) == asked  # they are here
            for path in (
                f"demo/{KEY}/5-10",
                f"demo/{KEY}/5-4",
                f"demo/{KEY}/0-99",
                f"demo/{78:016x}/0-1",
                f"x/{KEY}/0-1",
            ):
                assert "404" in (await block(server, f"/footage/{path}"))[0], path

    run(main, clock)


def test_the_poster_is_the_first_frame_of_the_first_avatar(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server:
            status, headers, body = await get(server.host, "/poster", server.host)
            assert "200" in status and headers["content-type"] == "image/jpeg"
            assert body.encode() == idle_picture(0)

    run(main, clock)


def test_without_the_token_there_is_no_footage(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, token="secret", faces=Faces(["demo"])) as server:
            path = f"/footage/demo/{KEY}/0-1"
            assert "401" in (await block(server, path))[0]
            assert "401" in (await block(server, path, "Authorization: Bearer wrong\r\n"))[0]
            assert "204" in (await block(server, "/poster"))[0]
            right = await block(server, f"/footage/demo/{KEY}/0-1", "Authorization: Bearer secret\r\n")
            assert right[2] == [idle_picture(0), idle_picture(1)]

    run(main, clock)


ALLOWED, OTHER = "https://talk.example.org", "https://evil.example.org"


def test_allowed_origins_and_no_others_may_load_embed_and_connect(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock, allow_origins=(ALLOWED,)) as server:
            for path in ("/element/lipsync-face.js", f"/footage/demo/{KEY}/0-1"):
                headers = (await block(server, path, f"Origin: {ALLOWED}\r\n"))[1]
                assert headers["access-control-allow-origin"] == ALLOWED
                assert headers["cross-origin-resource-policy"] == "cross-origin"
                assert "origin" in headers["vary"]
                assert f"frame-ancestors {ALLOWED}" in headers["content-security-policy"]
                headers = (await block(server, path, f"Origin: {OTHER}\r\n"))[1]
                assert "access-control-allow-origin" not in headers
                assert headers["cross-origin-resource-policy"] == "same-origin"
            async with server.open(Origin=ALLOWED) as browser:
                await browser.hello(version=2)
            with pytest.raises(Exception, match="403"):
                async with server.open(Origin=OTHER):
                    pass

    run(main, clock)


def test_without_allowed_origins_nothing_is_opened(fake, clock) -> None:
    async def main() -> None:
        async with serving(fake, clock) as server:
            headers = (await block(server, "/element/lipsync-face.js", f"Origin: {OTHER}\r\n"))[1]
            assert "access-control-allow-origin" not in headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]

    run(main, clock)

"""The page in a real Chromium, with a real `lipsync web` and a real Triton."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from checkout import ROOT
from gateway_process import gateway
from lipsync_client import Control
from lipsync_server import home
from web_page import CHROMIUM, WATCH, LipsyncWeb, browsing, offsets_of, opened, serving_page, until, write_speech

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt-get install chromium)")

LIVE_S = 5.0  # what the microphone hears
HEARD = 100  # frames of it are waited for
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
SIDEWAYS = {"viewport": {"width": 844, "height": 390}, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    # Ends with this module: Playwright's loop must not run while other tests start theirs.
    with browsing(write_speech(tmp_path_factory.mktemp("speech") / "speech.wav", LIVE_S)) as browser:
        yield browser


@pytest.fixture(scope="module")
def web(server, quick) -> Iterator[LipsyncWeb]:
    with serving_page(server.grpc_url, "--avatar", "demo", "--avatar", quick) as web:
        yield web


@pytest.fixture
def context(browser):
    """Of its own for each test. Nothing may go wrong in its pages, but that a server cannot be reached."""
    wrong: list[str] = []
    context = browser.new_context(**DESK)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    yield context
    context.close()
    away = ("WebSocket connection to", "ERR_CONNECTION_REFUSED")
    assert [line for line in wrong if not any(words in line for words in away)] == []


def until_idle(page) -> None:
    until(page, "document.querySelector('#state').textContent === 'Idle'")


def test_what_the_microphone_hears_is_spoken_in_sync(web, context, quick) -> None:
    page = opened(context, web.url, quick)
    page.evaluate(WATCH)
    page.click("#sound")
    page.click("#sound")  # on, by choice
    page.click("#microphone")
    until(page, f"watch.sounds.length > {HEARD}", wait_s=150)
    page.click("#microphone")
    until_idle(page)
    offsets = offsets_of(page)
    # A busy machine leaves pictures out, and may be held up while it draws one; hardly any is drawn at a wrong time.
    assert len(offsets) > 20
    assert offsets.min() > -40 and np.mean(np.abs(offsets) < 40) > 0.9, np.sort(offsets)[-20:]
    # What left for the loudspeaker at the time of a picture was that picture's own sound.
    match = page.evaluate("watch.compare()")
    assert match["recorded"] > HEARD / 2 and match["right"] > 0.9 * match["recorded"], match
    page.click("summary")
    assert "look-ahead" in page.inner_text("#delay-note") and "s" in page.inner_text("#delay")


def test_an_interruption_empties_everything_at_once_and_the_face_rests(web, context, quick) -> None:
    page = opened(context, web.url, quick)
    page.evaluate(WATCH)
    page.set_input_files("#file-input", str(home.SAMPLE))
    until(page, "watch.drawn.some(([, speechFrame]) => speechFrame > 5)")
    page.keyboard.press("Escape")
    drawn, waiting = page.evaluate("[watch.drawn.length, watch.player.waiting]")
    assert waiting == 0
    until(page, f"watch.drawn.length > {drawn} + 30")
    assert {speech_frame for _, speech_frame, _, _ in page.evaluate(f"watch.drawn.slice({drawn})")} == {-1}
    assert page.inner_text("#state") == "Idle" and page.is_disabled("#interrupt")


def test_a_whole_file_is_spoken_while_another_page_misbehaves(web, context, quick, tmp_path) -> None:
    page, other = opened(context, web.url, quick), context.browser.new_page()
    other.goto(f"{web.url}icon.svg")  # of the same origin, and nothing to draw
    page.evaluate(WATCH)
    page.set_input_files("#file-input", str(write_speech(tmp_path / "speech.wav", 2.0, lead=0)))
    other.evaluate(
        """() => new Promise((done) => {
          const socket = new WebSocket("/live");
          socket.onopen = () => {
            socket.send(JSON.stringify({ type: "hello", version: 1, sound_rate: 48000 }));
            for (let i = 0; i < 5000; i++) socket.send(JSON.stringify({ type: "interrupt" }));
          };
          socket.onclose = done;
        })"""
    )
    until(page, "watch.sounds.length === 50")  # frames of 2 s
    until_idle(page)
    match = page.evaluate("watch.compare()")
    assert match["recorded"] > 40 and match["right"] > 0.9 * match["recorded"], match
    other.close()


def test_text_is_spoken_by_keyboard_alone_if_the_machine_can(web, context, quick) -> None:
    page = opened(context, web.url, quick)
    if page.is_disabled("#speak"):
        assert "espeak-ng" in page.inner_text("#no-voice")
        pytest.skip("there is no speech synthesiser on this machine")
    page.evaluate(WATCH)
    page.focus("#text")
    page.keyboard.type("Good morning.")
    page.keyboard.press("Enter")
    until(page, "watch.drawn.some(([, speechFrame]) => speechFrame > 10)")
    until_idle(page)


def test_an_avatar_that_is_not_loaded_is_loaded_when_it_is_chosen(server, context, quick, tmp_path) -> None:
    with (
        gateway(tmp_path, server.grpc_url, key=server.control_key) as front,
        serving_page(front.grpc, "--avatar", "demo", "--avatar", quick) as web,
        Control(server.grpc_url, key=server.control_key) as control,
    ):
        front.wait()
        page = opened(context, web.url, "demo")
        control.unload(quick)
        page.select_option("#avatar", quick)
        page.wait_for_selector(f"#face[aria-label='The face of {quick}']")
        assert control.ready(quick)


def test_the_page_comes_back_by_itself_after_its_server_did(server, quick, context) -> None:
    with LipsyncWeb("--server", server.grpc_url, "--avatar", quick) as web:
        page = opened(context, web.url)
        assert web.stop() == 130  # Ctrl-C
    page.wait_for_selector("#notice:not([hidden])")
    assert "does not answer" in page.inner_text("#notice-text") and page.is_disabled("#microphone")
    with LipsyncWeb("--server", server.grpc_url, "--avatar", quick, port=web.port):
        page.wait_for_selector("#link[data-kind=good]")
        page.evaluate(WATCH)
        until(page, "watch.drawn.length > 10")
        assert page.is_hidden("#notice")


def test_a_full_server_and_one_without_triton_are_named_and_tried_again(server, quick, context) -> None:
    with LipsyncWeb("--server", server.grpc_url, "--avatar", quick, "--max-sessions", "1") as web:
        first = opened(context, web.url)
        second = context.new_page()
        second.goto(web.url)
        second.wait_for_selector("#notice:not([hidden])")
        assert "1 of 1 places are taken" in second.inner_text("#notice")
        first.close()
        second.wait_for_selector("#link[data-kind=good]")
    with LipsyncWeb("--server", "127.0.0.1:9") as web:
        page = context.new_page()
        page.goto(web.url)
        page.wait_for_selector("#notice:not([hidden])")
        assert "not available" in page.inner_text("#notice-text")
        assert "Try" in page.inner_text("#retry")


SERVE_OPENLY = """
import socket, sys
from lipsync_client.aio import AsyncClient
from lipsync_client.cli.web import _serve
from lipsync_client.web.faces import Faces
from lipsync_client.web.settings import Settings
settings = Settings("secret", loopback=False)
_serve(socket.socket(fileno=int(sys.argv[1])), AsyncClient(sys.argv[2]), Faces(), None, settings, {})
"""


@contextlib.contextmanager
def serving_openly(url: str) -> Iterator[int]:
    """As for other machines, but on this one alone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-c", SERVE_OPENLY, str(listening.fileno()), url]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()], cwd=ROOT / "client")
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            process.wait(30)


def test_a_token_is_asked_for_and_an_insecure_page_told_of_its_microphone(server, browser) -> None:
    with serving_openly(server.grpc_url) as port, contextlib.closing(browser.new_context(**DESK)) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/#token=wrong")
        page.wait_for_selector("#token-form:not([hidden])")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#link[data-kind=good]")
        page.reload()
        page.wait_for_selector("#link[data-kind=good]")  # the address has it now
        # What an insecure page lacks; localhost is secure in any case.
        page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
        page.click("#microphone")
        page.wait_for_selector("#message[data-kind=error]")
        assert "https" in page.inner_text("#message") and "localhost" in page.inner_text("#message")


@pytest.mark.parametrize("error", ["NotAllowedError", "NotFoundError", "NotReadableError"])
def test_a_microphone_that_cannot_be_had_is_explained(web, context, error) -> None:
    page = opened(context, web.url)
    page.evaluate(
        f"() => {{ navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', '{error}')); }}"
    )
    page.click("#microphone")
    page.wait_for_selector("#message[data-kind=error]")
    assert "icrophone" in page.inner_text("#message") and error not in page.inner_text("#message")
    page.set_input_files("#file-input", str(Path(__file__)))
    until(page, "document.querySelector('#message').textContent.includes('no sound')")


@pytest.mark.parametrize("size", [PHONE, SIDEWAYS, DESK], ids=["phone", "sideways", "desk"])
def test_everything_can_be_reached_and_nothing_sticks_out(web, browser, size) -> None:
    with contextlib.closing(browser.new_context(**size)) as context:
        page = opened(context, web.url)
        width = size["viewport"]["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for box in page.evaluate(
            "[...document.querySelectorAll('button, select, textarea')].filter((e) => e.offsetParent)"
            ".map((e) => e.getBoundingClientRect().toJSON())"
        ):
            assert box["height"] >= 44 and box["left"] >= 0 and box["right"] <= width
        page.locator("#interrupt").scroll_into_view_if_needed()
        assert page.evaluate(
            """() => {
              const { left, top, width, height } = document.querySelector("#interrupt").getBoundingClientRect();
              return Boolean(document.elementFromPoint(left + width / 2, top + height / 2).closest("#interrupt"));
            }"""
        )  # nothing lies over it
        reached = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"avatar", "text", "microphone", "file", "sound"} <= reached


def test_what_is_said_is_captioned_and_what_is_seen_recorded(web, context, quick, tmp_path) -> None:
    page = opened(context, web.url, quick)
    page.click("#record")
    if not page.is_disabled("#speak"):
        page.click("#examples button")
        assert page.inner_text("#state") in ("Starting", "Speaking")
        until(page, "document.querySelector('#caption').textContent === document.querySelector('#text').value")
        until_idle(page)
        assert page.inner_text("#caption") == ""
    page.wait_for_timeout(1000)
    with page.expect_download() as download:
        page.click("#record")
    download.value.save_as(tmp_path / "recording")
    with av.open(str(tmp_path / "recording")) as recording:
        assert {stream.type for stream in recording.streams} == {"video", "audio"}
        assert sum(1 for _ in recording.decode(video=0)) > 5


def test_a_second_visit_finds_the_footage_in_the_browser_and_idle_costs_next_to_nothing(web, context) -> None:
    page, there = opened(context, web.url), "document.querySelector('#face').footageThere === 1"
    until(page, there)
    asked, received = [], []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: received.append(len(data))))
    page.on("response", lambda answer: asked.append(answer.request.sizes()["responseBodySize"]))
    page.reload()
    until(page, there)
    page.wait_for_timeout(1000)  # the server is told
    received.clear()
    page.wait_for_timeout(2000)
    assert received and max(received) == 24  # bytes of an idle frame
    assert sum(asked) < 1e6

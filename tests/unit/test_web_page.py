"""What the page's server hands out besides frames: the page, its headers; its avatars, its command."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from pathlib import Path

import grpc
from client_fake import running
from typer.testing import CliRunner
from web_fake import WebFake, serving

from lipsync_client import LipsyncError, web
from lipsync_client.cli import web as command
from lipsync_client.cli.main import app
from lipsync_client.control.states import AvatarState
from lipsync_client.web.faces import Faces
from lipsync_client.web.words import OTHERWISE
from live_clock import TestClock, run

PAGE = Path(web.__file__).with_name("page")


UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


async def get(host: str, path: str, name: str, more: str = "Connection: close\r\n") -> tuple[str, dict[str, str], str]:
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n{more}\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 20)).decode().partition("\r\n\r\n")
    writer.close()
    status, *lines = head.split("\r\n")
    return status, dict(line.lower().split(": ", 1) for line in lines), body


def test_the_page_has_security_headers_and_one_host_name() -> None:
    async def main() -> None:
        with running(WebFake()) as fake:
            async with serving(fake, clock) as server:
                for name in (server.host, server.host.replace("127.0.0.1", "localhost"), "[::1]:8080"):
                    status, headers, body = await get(server.host, "/", name)
                    assert "200" in status and body.startswith("<!doctype html>")
                    assert "default-src 'none'" in headers["content-security-policy"]
                    assert "unsafe" not in headers["content-security-policy"]
                    assert headers["x-content-type-options"] == "nosniff"
                status, headers, body = await get(server.host, "/", "evil.example.org")
                assert "403" in status and "localhost" in body and "content-security-policy" in headers
                foreign = f"{UPGRADE}Origin: http://evil.example.org\r\n"
                assert "403" in (await get(server.host, "/live", "evil.example.org", foreign))[0]
                for path in ("/../app.py", "/%2e%2e/app.py", "/nothing"):
                    assert "404" in (await get(server.host, path, server.host))[0]

    clock = TestClock()
    run(main, clock)


def test_the_page_has_no_inline_code_and_asks_no_other_host() -> None:
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", html)
    for file in PAGE.iterdir():
        links = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", file.read_text())
        assert [link for link in links if "www.w3.org" not in link] == [], file
    ids = set(re.findall(r'\sid="([\w-]+)"', html))
    for file in PAGE.glob("*.js"):
        assert set(re.findall(r'\$\("([\w-]+)"\)', file.read_text())) <= ids, file


def test_every_control_of_the_page_has_a_name() -> None:
    html = (PAGE / "index.html").read_text()
    labelled = set(re.findall(r'<label[^>]*\sfor="([\w-]+)"', html))
    for name in re.findall(r'<(?:textarea|input)\s[^>]*?id="([\w-]+)"(?![^>]*hidden)', html):
        assert name in labelled, name
    for button in re.findall(r"<button[^>]*>(.*?)</button>", html, re.DOTALL):
        assert re.sub(r"<svg.*?</svg>|<[^>]+>", "", button, flags=re.DOTALL).strip()


def test_without_the_control_key_the_shipped_or_named_avatars_are_offered() -> None:
    assert asyncio.run(Faces().names()) == ["demo"]
    assert asyncio.run(Faces(["anna", "ben"]).names()) == ["anna", "ben"]


def test_broken_avatars_are_not_offered_and_a_list_is_kept_when_the_server_has_gone() -> None:
    class Lister:
        broken = False

        def avatars(self) -> list[AvatarState]:
            if self.broken:
                raise LipsyncError("no server")
            phases = {"zoe": "loaded", "anna": "not loaded", "demo": "loaded", "bad": "failed"}
            return [AvatarState(name, phase == "loaded", "", phase) for name, phase in phases.items()]

    async def main() -> None:
        faces = Faces(control=lister)  # type: ignore[arg-type]
        for lister.broken in (False, True):
            assert await faces.names() == ["demo", "anna", "zoe"]
            faces._asked = -1e9

    lister = Lister()
    asyncio.run(main())


class Loading(WebFake):
    """Says what the avatar is when `loading` is set, as a gateway that has to load it first."""

    def __init__(self) -> None:
        super().__init__()
        self.loading, self.asked, self.left = threading.Event(), threading.Event(), threading.Event()
        self.broken = ""

    def ModelConfig(self, request, context):
        if request.name == "lipsync":
            if self.broken:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.broken)
            context.add_callback(lambda: None if self.loading.is_set() else self.left.set())
            self.asked.set()
            self.loading.wait(20)
        return super().ModelConfig(request, context)


def loading(scenario, fake: Loading, **settings) -> None:
    clock = TestClock()

    async def main() -> None:
        with running(fake):
            try:
                async with serving(fake, clock, **settings) as server:
                    await scenario(server)
            finally:
                fake.loading.set()

    run(main, clock)


def test_a_page_that_goes_while_its_avatar_is_loaded_leaves_its_place() -> None:
    fake = Loading()

    async def scenario(server) -> None:
        async with server.open() as browser:
            await browser.tell("hello", version=1, sound_rate=8000)
            assert await asyncio.to_thread(fake.asked.wait, 20)
        assert await asyncio.to_thread(fake.left.wait, 20)
        fake.loading.set()
        async with server.open() as browser:
            await browser.hello()

    loading(scenario, fake, max_sessions=1)


def test_a_page_that_waits_for_its_avatar_hears_that_it_is_loaded(monkeypatch) -> None:
    monkeypatch.setattr("lipsync_client.web.connection.LOADING_S", 0.01)
    fake = Loading()

    async def scenario(server) -> None:
        async with server.open() as browser:
            await browser.tell("hello", version=1, sound_rate=8000)
            for _ in range(3):
                assert await browser.next() == {"type": "loading"}
            fake.loading.set()
            await browser.until_told("welcome")
            await browser.until_frame(lambda frame: frame.index == 30)
            assert browser.told[-1]["type"] == "welcome"

    loading(scenario, fake)


def test_why_an_avatar_cannot_be_loaded_is_for_the_log_alone(caplog) -> None:
    fake = Loading()
    fake.broken = "[load_failed] The server could not load 'demo': no memory."

    async def scenario(server) -> None:
        async with server.open() as browser:
            await browser.tell("hello", version=1, sound_rate=8000)
            assert await browser.until_closed() == (1013, OTHERWISE)

    loading(scenario, fake)
    assert "The server could not load 'demo': no memory." in caplog.text


def test_a_port_that_is_taken_is_named_with_what_to_do(capfd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["web", "--port", str(port)])
    assert result.exit_code == 1
    assert f"Port {port} of 127.0.0.1" in capfd.readouterr().err + result.output and "--port" in result.output


def test_other_machines_need_a_token_that_is_shown(monkeypatch) -> None:
    served = []
    monkeypatch.setattr(
        command, "_serve", lambda listening, server, faces, voices, settings, tls: served.append(settings)
    )
    result = CliRunner().invoke(app, ["web", "--host", "0.0.0.0", "--port", "0", "--server", "127.0.0.1:9"])
    assert result.exit_code == 0, result.output
    token = re.search(r"#token=(\S+)", result.output)[1]
    assert served[0].token == token and len(token) > 20 and not served[0].loopback
    CliRunner().invoke(app, ["web", "--port", "0", "--server", "127.0.0.1:9"])
    assert served[1].token is None and served[1].loopback

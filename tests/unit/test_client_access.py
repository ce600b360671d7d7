"""Who may call a server: TLS, tokens and headers, against a real gRPC server with a certificate of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import os
import select
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest.mock import AsyncMock

import grpc
import numpy as np
import pytest
from client_fake import AVATAR, FakeServer, running
from live_fake import LiveFake

from lipsync_client import (
    AccessDenied,
    AsyncClient,
    Client,
    Control,
    InvalidRequest,
    LipsyncError,
    LiveSession,
    Registry,
    ServerUnavailable,
    UntrustedServer,
    WrongServer,
)
from lipsync_client.agents.face import AgentFace
from lipsync_client.cli.main import app
from lipsync_client.connection import Connection, Endpoint
from lipsync_client.wire import CA_FILE_VARIABLE

TOKEN = "secret-token-of-anna"
SPEECH = np.zeros(100, np.float32)


class Doorkeeper(grpc.ServerInterceptor):
    """Lets in who sends the token, and keeps what every call carried. `expired`: nobody is let in."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.code: grpc.StatusCode | None = None

    def intercept_service(self, continuation, details):
        metadata = dict(details.invocation_metadata)
        self.seen.append(metadata)
        code = self.code or (
            grpc.StatusCode.UNAUTHENTICATED if metadata.get("authorization") != f"Bearer {TOKEN}" else None
        )
        if code is None:
            return continuation(details)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, "no entry"))


@dataclass
class Guarded:
    """A server that wants TLS and the token."""

    url: str
    door: Doorkeeper
    ca: Path


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for a name or an address, and its key."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(file), "-days", "2", "-subj", "/CN=lipsync test"),
            *("-addext", f"subjectAltName={name}"),
        ],
        check=True,
        capture_output=True,
    )
    return file, key


def guarded(folder: Path, name: str) -> Iterator[Guarded]:
    file, key = certificate(folder, name)
    tls = grpc.ssl_server_credentials([(key.read_bytes(), file.read_bytes())])
    door = Doorkeeper()
    with running(LiveFake(), tls=tls, interceptors=[door]) as fake:
        yield Guarded(fake.url, door, file)


@pytest.fixture(autouse=True)
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake takes 8 frames a request."""
    monkeypatch.setattr("lipsync_client.agents.face.LiveSession", functools.partial(LiveSession, chunk=8))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    for found in guarded(tmp_path, "IP:127.0.0.1"):
        monkeypatch.setenv(CA_FILE_VARIABLE, str(found.ca))
        monkeypatch.setenv("LIPSYNC_CONTROL_KEY", "")
        yield found


HEADERS = {"X-Tenant": "anna"}


def by_client(url: str, token: str | None) -> None:
    with Client(url, token=token, headers=HEADERS) as client:
        assert len(list(client.render(SPEECH, chunk=8))) == 3
        assert client.avatar().key == int(AVATAR["avatar_key"])


def by_async_client(url: str, token: str | None) -> None:
    async def main() -> None:
        async with AsyncClient(url, token=token, headers=HEADERS) as client:
            assert len([frame async for frame in client.render(SPEECH, chunk=8)]) == 3

    asyncio.run(main())


def by_control(url: str, token: str | None) -> None:
    with Control(url, token=token, headers=HEADERS) as control:
        assert control.ready("demo")


def by_registry(url: str, token: str | None) -> None:
    async def main() -> None:
        registry = Registry(url, token=token, headers=HEADERS)
        try:
            async with registry.lease("demo"):
                pass
        finally:
            await registry.close()

    asyncio.run(main())


def by_live_session(url: str, token: str | None) -> None:
    async def main() -> None:
        async with LiveSession([url], chunk=8, token=token, headers=HEADERS):
            pass

    asyncio.run(main())


def by_agent_face(url: str, token: str | None) -> None:
    async def main() -> None:
        face = AgentFace(url, sound_rate=25_000, token=token, headers=HEADERS)
        try:
            await face.session.check()
        finally:
            await face.close()

    asyncio.run(main())


CALLERS = [by_client, by_async_client, by_control, by_registry, by_live_session, by_agent_face]


@pytest.mark.parametrize("call", CALLERS)
def test_every_call_carries_token_and_headers_over_tls(server: Guarded, call) -> None:
    call(server.url, TOKEN)
    assert server.door.seen
    assert {(seen["authorization"], seen["x-tenant"]) for seen in server.door.seen} == {(f"Bearer {TOKEN}", "anna")}


@pytest.mark.parametrize("call", CALLERS)
@pytest.mark.parametrize("token", [None, "wrong-token"])
def test_a_missing_or_wrong_token_is_denied_once_in_a_sentence(server: Guarded, call, token: str | None) -> None:
    with pytest.raises(AccessDenied, match="does not know the caller: give a token") as raised:
        call(server.url, token)
    assert len(server.door.seen) == 1  # it was not sent again
    assert server.url in str(raised.value) and "wrong-token" not in str(raised.value)


def test_what_a_token_does_not_allow_is_denied(server: Guarded) -> None:
    server.door.code = grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(AccessDenied, match=r"does not allow this \(no entry\)"):
        by_client(server.url, TOKEN)
    assert len(server.door.seen) == 1


def test_a_certificate_of_an_unknown_ca_is_not_trusted(server: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CA_FILE_VARIABLE)
    with pytest.raises(UntrustedServer, match=f"not trusted here; set {CA_FILE_VARIABLE}"):
        by_client(server.url, TOKEN)
    assert not server.door.seen


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in guarded(tmp_path, "DNS:another.example"):
        monkeypatch.setenv(CA_FILE_VARIABLE, str(server.ca))
        with pytest.raises(UntrustedServer, match="its certificate is for another name"):
            by_client(server.url, TOKEN)
        assert not server.door.seen


def test_a_server_without_tls_gets_no_token_by_grpcs() -> None:
    door = Doorkeeper()
    with running(FakeServer(), interceptors=[door]) as fake:
        with pytest.raises(UntrustedServer, match="does not speak TLS there"):
            by_client(f"grpcs://{fake.url}", TOKEN)
        assert not door.seen
        by_client(f"grpc://{fake.url}", TOKEN)  # the loopback address needs no TLS


def test_an_unusable_file_of_cas_is_told(server: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CA_FILE_VARIABLE, str(tmp_path / "missing.pem"))
    with pytest.raises(LipsyncError, match=r"missing\.pem .* cannot be read: No such file"):
        Client(server.url)
    monkeypatch.setenv(CA_FILE_VARIABLE, str(tmp_path / "key.pem"))
    with pytest.raises(LipsyncError, match="holds no certificate"):
        Client(server.url)


@pytest.mark.parametrize(
    "url", ["10.0.0.7:8001", "grpc://lipsync.example", "dns:///localhost:8001", "127.0.0.1.evil.example:1"]
)
@pytest.mark.parametrize("kind", [Client, AsyncClient, Control, Registry, LiveSession])
def test_a_token_is_never_sent_unencrypted_to_another_machine(url: str, kind) -> None:
    for secret in ({"token": TOKEN}, {"headers": {"Authorization": f"Basic {TOKEN}"}}):
        with pytest.raises(LipsyncError, match="never sent unencrypted to another machine: use grpcs://") as raised:
            kind(url, **secret)
        assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("name", ["LipsyncVideoGenerator", "LipsyncAvatar"])
def test_livekits_adapters_pass_the_token_on(name: str) -> None:
    kind = getattr(pytest.importorskip("lipsync_client.agents.livekit"), name)
    with pytest.raises(LipsyncError, match="never sent unencrypted"):
        kind("10.0.0.7:8001", token=TOKEN)


def test_pipecats_adapter_passes_the_token_on(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = pytest.importorskip("lipsync_client.agents.pipecat")
    setup = types.SimpleNamespace(audio_out_sample_rate=24_000)
    monkeypatch.setattr(adapter.AIService, "setup", AsyncMock())
    with pytest.raises(LipsyncError, match="never sent unencrypted"):
        asyncio.run(adapter.LipsyncVideoService("10.0.0.7:8001", token=TOKEN).setup(setup))


def test_a_proxy_of_the_environment_does_not_see_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    door = Doorkeeper()
    with running(FakeServer(), interceptors=[door]) as fake:
        by_client(fake.url, TOKEN)


@pytest.mark.parametrize(
    ("url", "target", "secure", "loopback"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001", False, True),
        ("localhost:1", "localhost:1", False, True),
        ("[::1]:1", "[::1]:1", False, True),
        ("gpu7:8001", "gpu7:8001", False, False),
        ("grpc://127.0.0.2", "127.0.0.2:8001", False, True),
        ("grpcs://lipsync.example", "lipsync.example:8001", True, False),
        ("grpcs://lipsync.example:443/", "lipsync.example:443", True, False),
        ("grpcs://[2001:db8::1]:443", "[2001:db8::1]:443", True, False),
        ("gpu7", "gpu7:8001", False, False),
        ("127.0.0.1", "127.0.0.1:8001", False, True),
        ("[::1]", "[::1]:8001", False, True),
        ("dns:///gpu7:8001", "dns:///gpu7:8001", False, False),
        ("unix:///run/lipsync", "unix:///run/lipsync", False, False),
        ("ipv4:127.0.0.1:1,10.0.0.7:1", "ipv4:127.0.0.1:1,10.0.0.7:1", False, False),
    ],
)
def test_addresses(url: str, target: str, secure: bool, loopback: bool) -> None:
    found = Endpoint(url)
    assert (found.target, found.secure, found.loopback) == (target, secure, loopback)


@pytest.mark.parametrize(
    "url",
    [
        "https://host:1",
        "grpcs://",
        "grpcs://anna:secret@host",
        "anna:secret@host:1",
        "grpcs://host/path",
        "grpc://host:1x",
    ],
)
def test_what_is_no_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Client(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "is empty: write host:port, such as 127.0.0.1:8001"),
        ("grpcs://", "is empty"),
        ("http://gpu7", "http:// is for its HTTP port: write gpu7:8001, or with the port that its gRPC has"),
        ("http://gpu7:8000/v2", "http:// is for its HTTP port: write gpu7:8001"),
        ("https://gpu7:8000", "https:// is for its HTTP port: write grpcs://gpu7:8001"),
        ("ftp://gpu7", "no other scheme is known"),
        ("gpu7:8001/v2", "has no path: write host:port, and nothing behind it"),
        ("grpcs://gpu7:8001/v2/models", "has no path"),
        ("gpu7/v2", "has no path"),
        (" gpu7:8001", "holds no spaces"),
        ("gpu 7:8001", "holds no spaces"),
        ("gpu7:8001\n", "holds no spaces"),
        ("gpu7:", "port of a server's address must be a number from 1 to 65535"),
        ("gpu7:grpc", "must be a number from 1 to 65535"),
        ("gpu7:0", "must be a number from 1 to 65535"),
        ("gpu7:65536", "must be a number from 1 to 65535"),
        ("grpcs://gpu7:123456", "must be a number from 1 to 65535"),
        (":8001", "is host:port, or grpcs://host:port with TLS, and nothing else"),
        ("::1:8001", "stands in brackets: write [address]:port, such as [::1]:8001"),
        ("anna:secret@gpu7:8001", "no user and no password"),
        ("http://anna:secret@gpu7", "no user and no password"),
        ("dns:///anna:secret@gpu7", "no user and no password"),
        ("gpu7?x", "is host:port"),
    ],
)
def test_what_is_wrong_with_an_address_is_told_with_what_to_write(url: str, sentence: str) -> None:
    for kind in (Client, Control):
        with pytest.raises(InvalidRequest) as raised:
            kind(url)
        assert sentence in str(raised.value) and "secret" not in str(raised.value)


@contextlib.contextmanager
def answering(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[http.server.ThreadingHTTPServer]:
    class Quiet(handler):  # type: ignore[misc, valid-type]
        def log_message(self, *values: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_the_http_port_and_other_services_are_told_from_no_server() -> None:
    told = "is not a lip-sync server's gRPC port, which is 8001 by default"
    with answering(http.server.BaseHTTPRequestHandler) as web, Client(f"127.0.0.1:{web.server_port}") as client:
        with pytest.raises(WrongServer, match=told):
            client.timeline()
        with pytest.raises(WrongServer, match=told):  # and is not asked again and again
            client.infer(np.zeros(16_000, np.float32))
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with Client(f"127.0.0.1:{port}") as client, pytest.raises(WrongServer, match=told):
        client.timeline()
    other.stop(None)


def test_a_port_with_tls_that_is_asked_without_is_told_what_to_write(server: Guarded) -> None:
    address = server.url.removeprefix("grpcs://")
    with (
        Client(address) as client,
        pytest.raises(ServerUnavailable, match=f"at {address}. If it has TLS, write grpcs://"),
    ):
        client.timeline()


class Connecting(http.server.BaseHTTPRequestHandler):
    """A proxy that takes CONNECT, and leads everything to one server."""

    heard: ClassVar[list[str]] = []
    port: ClassVar[int] = 0

    def do_CONNECT(self) -> None:
        self.heard.append(self.path)
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.port)) as there:
            ends = [self.connection, there]
            while True:
                for end in select.select(ends, [], [])[0]:
                    if not (data := end.recv(65_536)):
                        return
                    ends[1 - ends.index(end)].sendall(data)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_another_machine_is_reached_through_the_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    Connecting.heard.clear()
    with running(FakeServer()) as fake, answering(Connecting) as proxy:
        Connecting.port = int(fake.url.rpartition(":")[2])
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.server_port}")
        with Client("gpu7.invalid:8001") as client:
            assert client.avatar().id == "demo"
        assert Connecting.heard == ["gpu7.invalid:8001"]
        with Client(fake.url) as client:
            assert client.avatar().id == "demo"
        monkeypatch.setenv("no_proxy", "gpu8.invalid")
        with Client("gpu8.invalid:8001") as client, pytest.raises(ServerUnavailable):
            client.avatar()
        assert Connecting.heard == ["gpu7.invalid:8001"], "neither this machine, nor what no_proxy names"


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "café", "x" * 5000])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(InvalidRequest, match="printable ASCII characters without spaces") as raised:
        Client(token=token)
    assert not token or token not in str(raised.value)


@pytest.mark.parametrize(
    "headers", [{"bad name": "s3cret"}, {"grpc-x": "s3cret"}, {"x-bin": "s3cret"}, {"x": "s3cret\n"}]
)
def test_a_header_that_cannot_be_sent_is_refused_without_showing_it(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="header") as raised:
        Client(headers=headers)
    assert "s3cret" not in str(raised.value)
    with pytest.raises(InvalidRequest, match="either a token or the header"):
        Client(token=TOKEN, headers={"Authorization": "Basic x"})


def test_a_client_that_is_shared_has_its_own_token() -> None:
    async def main() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            with pytest.raises(InvalidRequest, match="give them to AsyncClient"):
                LiveSession(client, token=TOKEN)

    asyncio.run(main())


def test_no_object_shows_its_token() -> None:
    connection = Connection("127.0.0.1:1", token=TOKEN)
    with Client(token=TOKEN) as client, Control(token=TOKEN) as control:
        assert not any(TOKEN in repr(one) for one in (connection, client, control))


def lipsync(*arguments: str | Path, server: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LIPSYNC_SERVER": server, "XDG_CACHE_HOME": str(folder), "COLUMNS": "200", **variables}
    command = [sys.executable, "-m", "lipsync_client.cli.main", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_commands_read_the_token_from_a_file_or_the_environment(server: Guarded, tmp_path: Path) -> None:
    call = lambda *options, **variables: lipsync(  # noqa: E731
        "avatars", "stats", *options, server=server.url, folder=tmp_path, **variables
    )
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    for done in (call("--token-file", tmp_path / "token", "--header", "X-Tenant: anna"), call(LIPSYNC_TOKEN=TOKEN)):
        assert server.door.seen[-1]["authorization"] == f"Bearer {TOKEN}"
        assert done.returncode == 1 and "UNIMPLEMENTED" in done.stderr  # it was let in; the fake has no statistics
    assert server.door.seen[0]["x-tenant"] == "anna"
    denied = call(LIPSYNC_TOKEN="wrong-token")
    assert denied.returncode == 1
    assert denied.stderr.startswith(f"The server at {server.url} does not know the caller")
    assert not any(secret in text for text in (denied.stdout, denied.stderr) for secret in (TOKEN, "wrong-token"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--token-file", "missing"), "The token file missing cannot be read: No such file or directory."),
        (("--token-file", os.devnull), "holds no token"),
        (("--header", f"authorization {TOKEN}"), 'A --header must be "name: value".'),
        (("--header", f"authorization: Bearer {TOKEN}", "--server", "gpu7:1"), "never sent unencrypted"),
        (("--token", TOKEN), "No such option: --token"),
    ],
)
def test_a_wrong_option_is_told_without_the_secret(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    done = lipsync("status", *options, server="127.0.0.1:1", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_command_refuses_a_key_file_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "lipsync/control.key"
    path.parent.mkdir()
    path.write_text("the-control-key")
    path.chmod(0o644)
    done = lipsync("avatars", server="127.0.0.1:1", folder=tmp_path, LIPSYNC_CONTROL_KEY="")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"`chmod 600 {path}`" in done.stderr and len(done.stderr.splitlines()) == 1
    assert "the-control-key" not in done.stderr


def test_a_traceback_of_a_command_shows_no_variables() -> None:
    assert app.pretty_exceptions_show_locals is False  # typer's default was another one

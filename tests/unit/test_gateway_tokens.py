"""Who may call the gateway: TLS and tokens on its real ports, before a stand-in for a Triton."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client_fake import WAIT_S, FakeServer
from client_fake import running as serving
from google.protobuf import text_format
from test_client_access import certificate
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor
from typer.testing import CliRunner

from checkout import ROOT
from lipsync_client import AccessDenied, AsyncClient, LipsyncError, Overloaded, Request
from lipsync_client.cli.main import app
from lipsync_client.settings import SettingsError
from lipsync_client.wire import CA_FILE_VARIABLE
from lipsync_server.gateway import tokens as tokens_module
from lipsync_server.gateway.callers import host_of
from lipsync_server.gateway.monolithic_proto import SERVICE as MONOLITHIC
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.run import Addresses, running
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.tokens import Tokens, caller_of, new_token, read_tokens

HERE, ELSEWHERE = "127.0.0.1", "10.0.0.7"
HELD = 7  # frames
CONFIG = "/v2/models/lipsync_ensemble/config"


class Triton(FakeServer):
    """Gives as many frames as it is asked for, one without a number. `HELD` frames wait until they are released."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.release = threading.Event(), threading.Event()

    def ModelConfig(self, request, context):
        answer = super().ModelConfig(pb.ModelConfigRequest(name="lipsync"), context)
        text = (ROOT / "model_repository/lipsync_ensemble/config.pbtxt").read_text()
        text_format.Parse(text, answer.config)
        return answer

    def ModelInfer(self, request, context):
        values = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
        count = int(np.frombuffer(values.get("FRAME_COUNT", np.int32(1).tobytes()), np.int32)[0])
        if count == HELD:
            self.arrived.set()
            self.release.wait(WAIT_S)
        frames = np.array([b"jpeg"] * count, dtype=object)
        answer = pb.ModelInferResponse(model_name=request.model_name)
        for name, kind, shape, raw in (
            ("JPEG", "BYTES", [count], serialize_byte_tensor(frames).item()),
            ("FRAME_INDEX", "INT64", [count], np.arange(count).tobytes()),
            ("TIMINGS_MS", "FP32", [4], np.zeros(4, np.float32).tobytes()),
        ):
            answer.outputs.add(name=name, datatype=kind, shape=shape)
            answer.raw_output_contents.append(raw)
        return answer


@dataclass
class Clock:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.yaml"


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caller counts as one on another machine."""
    monkeypatch.setattr(tokens_module, "_is_local", lambda host: False)


@pytest.fixture
def triton() -> Iterator[Triton]:
    with serving(Triton()) as fake:
        yield fake


def refused(call: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


@asynccontextmanager
async def gateway(triton: Triton, file: Path, **settings: Any) -> AsyncIterator[Addresses]:
    ports: dict[str, Any] = {
        "grpc_port": 0,
        "http_port": 0,
        "monolithic_port": 0,
        "tokens": str(file),
        "patience_s": 2.0,
    }
    ports["request_log"] = {"file": None}
    async with running(GatewaySettings((triton.url,), **{**ports, **settings})) as (_, addresses):
        yield addresses


async def frames(url: str, token: str | None, count: int = 4) -> int:
    async with AsyncClient(url, token=token, timeout=10) as client:
        request = Request(np.zeros(1000, np.float32), 0, True, 0, count, 0)
        return len((await client.attempt(request, "demo")).frames)  # sent once


async def get(url: str, token: str | None = None, ca: Path | None = None) -> tuple[int, dict[str, str], str]:
    """Status, headers and body."""

    def ask() -> tuple[int, dict[str, str], str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        context = ssl.create_default_context(cafile=str(ca)) if ca else None
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=10, context=context
            ) as got:
                return got.status, dict(got.headers), got.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read().decode()

    return await asyncio.to_thread(ask)


async def monolithic(address: str, token: str | None) -> grpc.StatusCode:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{MONOLITHIC}/InferBatchComposite")(b"", metadata=metadata, timeout=10)
        return await call.code()


@pytest.mark.usefixtures("strangers")
def test_strangers_need_a_right_token_on_every_port(triton: Triton, file: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    past = datetime.now(timezone.utc) - timedelta(days=1)
    old, good = new_token(file, "old", expires=past), new_token(file, "anna")

    async def main() -> None:
        async with gateway(triton, file) as at:
            for token, says in ((None, "need a token"), ("wrong", "not known here"), (old, "this token ended at")):
                with pytest.raises(AccessDenied, match=says) as denied:
                    await frames(at.grpc, token)
                assert str(token) not in str(denied.value)
                for path in (CONFIG, "/v2", "/metrics", "/nothing"):
                    status, headers, body = await get(f"http://{at.http}{path}", token)
                    assert (status, headers["www-authenticate"]) == (401, "Bearer")
                    assert says in body and str(token) not in body
                assert await monolithic(at.monolithic, token) is grpc.StatusCode.UNAUTHENTICATED
            assert await frames(at.grpc, good) == 4
            assert (await get(f"http://{at.http}{CONFIG}", good))[0] == 200
            assert 'reason="token"' in (await get(f"http://{at.http}/metrics", good))[2]
            assert await monolithic(at.monolithic, good) is grpc.StatusCode.OK

    asyncio.run(main())
    assert not any(secret in caplog.text for secret in (old, good, "wrong"))


@pytest.mark.usefixtures("strangers")
def test_probes_need_no_token(triton: Triton, file: Path) -> None:
    async def main() -> None:
        async with gateway(triton, file) as at:
            for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
                assert (await get(f"http://{at.http}{path}"))[0] != 401
            async with grpc.aio.insecure_channel(at.grpc) as channel:
                for method in ("grpc.health.v1.Health/Check", "inference.GRPCInferenceService/ServerReady"):
                    assert await channel.unary_unary(f"/{method}")(b"", timeout=10).code() is grpc.StatusCode.OK
                stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=10)
                await stream.done_writing()
                assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(main())


def test_callers_on_this_machine_need_no_token_but_a_wrong_one_is_refused(triton: Triton, file: Path) -> None:
    async def main() -> None:
        async with gateway(triton, file) as at:
            assert await frames(at.grpc, None) == 4
            assert (await get(f"http://{at.http}{CONFIG}"))[0] == 200
            assert (await get(f"http://{at.http}{CONFIG}", "wrong"))[0] == 401
            with pytest.raises(AccessDenied):
                await frames(at.grpc, "wrong")

    asyncio.run(main())


@pytest.mark.usefixtures("strangers")
def test_tls_on_every_port(triton: Triton, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, (own, key) = new_token(file, "anna"), certificate(tmp_path, "IP:127.0.0.1")
    monkeypatch.setenv(CA_FILE_VARIABLE, str(own))

    async def main() -> None:
        async with gateway(triton, file, tls_cert=str(own), tls_key=str(key)) as at:
            assert await frames(f"grpcs://{at.grpc}", token) == 4
            assert (await get(f"https://{at.http}{CONFIG}", token, own))[0] == 200
            for address in (at.grpc, at.monolithic):
                assert await monolithic(address, token) is grpc.StatusCode.UNAVAILABLE  # not without TLS
            with pytest.raises(OSError):
                await get(f"http://{at.http}{CONFIG}", token)

    asyncio.run(main())


def test_a_certificate_that_cannot_be_used_is_told(triton: Triton, file: Path, tmp_path: Path) -> None:
    own, key = certificate(tmp_path, "IP:127.0.0.1")
    (tmp_path / "second").mkdir()
    _, other = certificate(tmp_path / "second", "IP:127.0.0.1")

    async def start(cert: Path, key: Path) -> None:
        async with gateway(triton, file, tls_cert=str(cert), tls_key=str(key)):
            pass

    for pair, says in (
        ((own, other), "belong together"),
        ((key, key), "belong together"),
        ((own, file), "No such file"),
    ):
        with pytest.raises(LipsyncError, match=says):
            asyncio.run(start(*pair))
    with pytest.raises(SettingsError, match="give both, or neither"):
        GatewaySettings.from_dict({"upstreams": ("here:1",), "tls_cert": "x.pem"})


@pytest.mark.usefixtures("strangers")
def test_a_tokens_limits_are_its_own(triton: Triton, file: Path) -> None:
    slow, other = new_token(file, "slow", frames_per_s=0.01), new_token(file, "other")

    async def main() -> None:
        async with gateway(triton, file) as at:
            for _ in range(2):
                assert await frames(at.grpc, slow, 32) == 32  # 64 may come at once
            with pytest.raises(Overloaded, match=r"has taken its 0\.01 frames a second"):
                await frames(at.grpc, slow, 1)
            assert await post_frames(at.http, slow, 1) == 429
            assert await frames(at.grpc, other, 32) == 32

    asyncio.run(main())


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("front", ["grpc", "http"])
def test_tokens_on_one_machine_have_open_requests_of_their_own(triton: Triton, file: Path, front: str) -> None:
    anna, ben = new_token(file, "anna"), new_token(file, "ben")

    async def ask(at: Addresses, token: str, count: int) -> bool:
        if front == "http":
            return await post_frames(at.http, token, count) == 200
        with contextlib.suppress(Overloaded):
            return await frames(at.grpc, token, count) == count
        return False

    async def main() -> None:
        async with gateway(triton, file, max_open_per_caller=1) as at:
            held = asyncio.create_task(ask(at, anna, HELD))
            try:
                assert await asyncio.to_thread(triton.arrived.wait, WAIT_S)
                assert not await ask(at, anna, 1)
                assert await ask(at, ben, 1)
            finally:
                triton.release.set()
            assert await held

    asyncio.run(main())


async def post_frames(address: str, token: str, count: int) -> int:
    """The status of an inference over HTTP."""
    body = {
        "inputs": [
            {"name": "AUDIO", "datatype": "FP32", "shape": [4], "data": [0, 0, 0, 0]},
            {"name": "FRAME_COUNT", "datatype": "INT32", "shape": [1], "data": [count]},
        ],
        "parameters": {"binary_data_output": True},
    }
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"http://{address}/v2/models/lipsync_ensemble/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)

    def ask() -> int:
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as got:
                return got.status
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(ask)


def test_open_requests_of_a_token_are_counted_by_its_name(file: Path) -> None:
    secret, other = new_token(file, "anna", max_open=1), new_token(file, "ben", max_open=1)
    tokens = Tokens(file)
    tokens.identify(f"Bearer {secret}", ELSEWHERE)
    assert caller_of(ELSEWHERE) == "token anna"
    with tokens.admitted():
        assert "1 requests of this token are open" in refused(lambda: tokens.admitted().__enter__()).sentence
        tokens.identify(f"bearer {other}", ELSEWHERE)  # a scheme's case does not matter
        with tokens.admitted():
            pass
    tokens.identify(f"Bearer {secret}", ELSEWHERE)
    with tokens.admitted():
        pass
    tokens.identify(None, HERE)
    assert caller_of(HERE) == HERE


def test_frames_come_back_with_time(file: Path) -> None:
    clock = Clock()
    secret = new_token(file, "anna", frames_per_s=25)
    tokens = Tokens(file, now=clock)

    def take(count: int) -> None:
        tokens.identify(f"Bearer {secret}", ELSEWHERE)
        with tokens.admitted():
            tokens.spent(count)

    take(100)
    assert refused(lambda: take(1)).code is grpc.StatusCode.UNAVAILABLE
    clock.time += 1
    take(75)  # 25 were there: the rest is waited off
    clock.time += 2
    refused(lambda: take(1))
    clock.time += 0.1
    take(1)
    clock.time += 1000
    take(100)
    refused(lambda: take(1))


def test_the_file_is_read_again_when_it_changes_and_kept_when_it_breaks(file: Path, caplog) -> None:
    clock = Clock()
    tokens = Tokens(file, now=clock)
    secret = new_token(file, "anna")
    refused(lambda: tokens.identify(f"Bearer {secret}", ELSEWHERE))  # not looked at yet
    clock.time += 2
    tokens.identify(f"Bearer {secret}", ELSEWHERE)
    file.write_text(f"- {{name: anna, sha256: {secret}}}\n")  # the token instead of its hash
    clock.time += 2
    with caplog.at_level(logging.ERROR):
        tokens.identify(f"Bearer {secret}", ELSEWHERE)
        tokens.identify(f"Bearer {secret}", ELSEWHERE)
    assert caplog.text.count("The tokens are as before") == 1
    assert secret not in caplog.text
    file.unlink()
    clock.time += 2
    assert refused(lambda: tokens.identify(f"Bearer {secret}", ELSEWHERE)).code is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_ends(file: Path) -> None:
    date = Clock(datetime(2027, 1, 31, tzinfo=timezone.utc).timestamp() - 1)
    secret = new_token(file, "anna")
    file.write_text(file.read_text() + "  expires: 2027-01-31\n")
    tokens = Tokens(file, date=date)
    tokens.identify(f"Bearer {secret}", ELSEWHERE)
    date.time += 1
    denied = refused(lambda: tokens.identify(f"Bearer {secret}", HERE))  # also on this machine
    assert denied.sentence == "this token ended at 2027-01-31 00:00 UTC"


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:4000", True),
        ("ipv6:%5B::1%5D:4000", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:4000", True),
        ("unix:/run/lipsync", True),
        ("ipv4:10.0.0.7:4000", False),
        ("ipv6:%5B2001:db8::1%5D:4000", False),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4000", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_are_this_machine(file: Path, peer: str, local: bool) -> None:
    tokens = Tokens(file)
    if local:
        tokens.identify(None, host_of(peer))
    else:
        assert refused(lambda: tokens.identify("Basic YQ==", host_of(peer))).code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: anna", "must be a list of tokens"),
        ("- SECRET", "entry 1 has no sha256 of 64 hexadecimal digits"),
        ("- {name: anna, sha256: SECRET}", "entry 1 has no sha256"),
        (f"- {{name: anna b, sha256: '{'a' * 64}'}}", "token.name is 'anna b'"),
        (f"- {{name: anna, sha256: '{'a' * 64}', max_open: 0}}", "token.max_open is 0"),
        (f"- {{name: anna, sha256: '{'a' * 64}', tokn: SECRET}}", "unknown key token.tokn"),
        (f"- &a {{name: anna, sha256: '{'a' * 64}'}}\n- *a", "the name anna is there more than once"),
    ],
)
def test_a_wrong_file_is_told_without_secrets(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError) as raised:
        read_tokens(file)
    assert says in str(raised.value) and "SECRET" not in str(raised.value)


def test_the_command_prints_a_token_once_and_stores_its_hash(file: Path) -> None:
    call = lambda *options: CliRunner().invoke(app, ["token", "new", *options, "--tokens", str(file)])  # noqa: E731
    done = call("anna", "--days", "30", "--max-open", "4", "--frames-per-second", "50")
    secret = done.stdout.strip()
    assert done.exit_code == 0 and len(secret) > 40 and secret not in done.stderr
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().rstrip("\n"))  # edited by hand
    assert call("123").exit_code == 0  # a name that YAML would read as a number
    first, second = read_tokens(file)
    assert (first.name, first.max_open, first.frames_per_s, second.name) == ("anna", 4, 50, "123")
    assert first.expires is not None and timedelta(29) < first.expires - datetime.now(timezone.utc) < timedelta(31)
    again = call("anna")
    assert (again.exit_code, again.stdout) == (1, "") and "has a token of the name anna" in again.stderr
    assert call("a b").exit_code == 1
    assert len(read_tokens(file)) == 2
    Tokens(file).identify(f"Bearer {secret}", ELSEWHERE)

"""The gateway's request log: on its real ports before a stand-in for a Triton, and by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client_fake import WAIT_S
from test_gateway_tokens import Triton, frames, gateway, get, monolithic, post_frames
from test_gateway_tokens import triton as triton  # a fixture

from lipsync_client import AccessDenied
from lipsync_client.errors import LipsyncError
from lipsync_client.settings import SettingsError
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.request_log import Record, RequestLog, json_line, opened, text_line
from lipsync_server.gateway.settings import GatewaySettings, RequestLogSettings
from lipsync_server.gateway.tensors import request_of
from lipsync_server.gateway.tokens import new_token
from lipsync_server.rotating_file import RotatingFile

SERVICE = "/inference.GRPCInferenceService"
ASKED = request_of("lipsync_ensemble", AUDIO=np.zeros(640, np.float32), FRAME_COUNT=np.array([2], np.int32))


def logged(path: Path) -> list[dict[str, Any]]:
    """The requests, after the line of the start."""
    first, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["event"] == "started"
    return lines


def shown(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("protocol", "method", "model", "avatar", "token", "frames", "code"))


def test_every_request_is_one_line_with_the_tokens_name_and_no_secret(triton: Triton, tmp_path: Path) -> None:
    path, tokens = tmp_path / "requests.log", tmp_path / "tokens.yaml"
    secret = new_token(tokens, "anna")

    async def main() -> None:
        async with gateway(triton, tokens, request_log={"file": str(path), "format": "json"}) as at:
            assert await frames(at.grpc, secret) == 4
            assert await post_frames(at.http, secret, 3) == 200
            await monolithic(at.monolithic, None)
            assert (await get(f"http://{at.http}/v2", "wrong-secret"))[0] == 401
            with pytest.raises(AccessDenied):
                await frames(at.grpc, "wrong-secret")
            for probe in ("healthz", "readyz", "v2/health/live"):
                await get(f"http://{at.http}/{probe}")

    asyncio.run(main())
    ensemble = ("lipsync_ensemble", "demo")
    assert [shown(line) for line in logged(path)] == [
        ("grpc", "ModelInfer", *ensemble, "anna", 4, "OK"),
        ("http", "POST /v2/models/lipsync_ensemble/infer", *ensemble, "anna", 3, "200"),
        ("monolithic", "InferBatchComposite", "", "", "", 0, "INVALID_ARGUMENT"),
        ("http", "GET /v2", "", "", "", 0, "401"),
        ("grpc", "ModelInfer", "", "", "", 0, "UNAUTHENTICATED"),
    ]
    first = logged(path)[0]
    assert first["bytes_in"] > 4000 and first["bytes_out"] > 100 and first["ms"] > 0 and first["caller"] == "127.0.0.1"
    assert secret not in path.read_text() and "wrong-secret" not in path.read_text()


def test_each_message_of_a_stream_is_a_request(triton: Triton, tmp_path: Path) -> None:
    path = tmp_path / "requests.log"

    async def main() -> None:
        settings = {"request_log": {"file": str(path), "format": "json"}}
        async with gateway(triton, tmp_path / "none.yaml", **settings) as at, grpc.aio.insecure_channel(at.grpc) as to:
            stream = to.stream_stream(f"{SERVICE}/ModelStreamInfer")(timeout=WAIT_S)
            for data in (encoded(ASKED), b"junk"):
                await stream.write(data)
                await stream.read()
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK

    asyncio.run(main())
    assert [(line["method"], line["frames"], line["code"]) for line in logged(path)] == [
        ("ModelStreamInfer", 2, "OK"),
        ("ModelStreamInfer", 0, "INVALID_ARGUMENT"),
    ]


def test_nobody_waits_for_a_log_that_hangs_and_what_is_dropped_is_said() -> None:
    hanging, release = threading.Event(), threading.Event()
    written: list[str] = []

    def write(text: str) -> None:
        hanging.set()
        release.wait(WAIT_S)
        written.append(text)

    log = RequestLog(write, json_line, queue_size=3)
    log.add(Record(0.0, "grpc", "first"))
    assert hanging.wait(WAIT_S)
    for number in range(5):
        log.add(Record(0.0, "grpc", f"number {number}"))
    assert log.dropped == 2
    release.set()
    log.close()
    lines = [json.loads(line) for line in "".join(written).splitlines()]
    assert [line.get("method") for line in lines] == ["first", "number 0", "number 1", "number 2", None]
    assert (lines[-1]["event"], lines[-1]["count"]) == ("lines dropped", 2)


def test_a_full_disk_is_said_once_and_the_log_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    written: list[str] = []
    tried = threading.Semaphore(0)

    def write(text: str) -> None:
        tried.release()
        if "bad" in text:
            raise OSError(28, "No space left on device")
        written.append(text)

    log = RequestLog(write, text_line)
    for method in ("bad1", "bad2", "good"):
        log.add(Record(0.0, "grpc", method))
        assert tried.acquire(timeout=WAIT_S)
    log.close()
    assert caplog.text.count("No space left on device") == 1
    assert "good" in "".join(written)


def test_what_callers_choose_stays_within_its_line_and_value() -> None:
    line = text_line({"time": "now", "protocol": "http", "method": 'GET /a\nb="c"', "model": "x" * 999, "token": ""})
    assert line.count("\n") == 1 and line.endswith(" token=-\n")
    assert line.startswith('now http "GET /a\\nb=\\"c\\"" model=')
    assert len(line) < 400


def test_a_log_file_never_grows_beyond_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("of an earlier run\n")
    file = RotatingFile(path, 100, 2)
    for number in range(40):
        file.write(f"{number:09d}\n")
    file.close()
    sizes = {one.name: one.stat().st_size for one in tmp_path.iterdir()}
    assert set(sizes) == {"a.log", "a.log.1", "a.log.2"} and max(sizes.values()) <= 100
    kept = [line for name in ("a.log.2", "a.log.1", "a.log") for line in (tmp_path / name).read_text().split()]
    assert kept == [f"{number:09d}" for number in range(18, 40)]
    RotatingFile(path, 100, 2, replace=True).close()
    assert {one.name: one.stat().st_size for one in tmp_path.iterdir()} == {"a.log": 0}


def test_no_backups_means_one_file(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "a.log", 20, 0)
    for number in range(9):
        file.write(f"{number:09d}\n")
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a.log"]
    assert (tmp_path / "a.log").read_text() == "000000008\n"


def test_the_settings_say_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert opened(RequestLogSettings(file=None), 1) is None
    for settings in (RequestLogSettings(), RequestLogSettings(file="stderr")):
        log = opened(settings, 8001)
        assert log is not None
        log.event("started", open_files=7)
        log.close()
    assert (tmp_path / "lipsync" / "requests-8001.log").read_text().endswith("Z event=started open_files=7\n")
    assert capsys.readouterr().err.endswith("Z event=started open_files=7\n")
    with pytest.raises(LipsyncError, match="cannot be written"):
        opened(RequestLogSettings(file=str(tmp_path / "no folder" / "a.log")), 1)
    with pytest.raises(SettingsError, match=r"gateway.request_log.format is 'xml'; allowed is text or json"):
        GatewaySettings.from_dict({"upstreams": ("a:1",), "request_log": {"format": "xml"}})


def test_the_log_keeps_the_errors_of_python_out(caplog: pytest.LogCaptureFixture) -> None:
    """A closed standard error is no reason for a thread to end with a traceback."""

    def closed(text: str) -> None:
        raise ValueError("I/O operation on closed file")

    log = RequestLog(closed, text_line)
    log.add(Record(0.0, "grpc", "ModelInfer"))
    log.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

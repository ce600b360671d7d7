"""Traces of the gateway: spans from its real ports, in a receiver that speaks OTLP over gRPC."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client_fake import WAIT_S
from client_fake import running as serving
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from test_gateway_tokens import Triton, gateway

from lipsync_client import AsyncClient, LipsyncError, Request
from lipsync_client.settings import SettingsError
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.settings import GatewaySettings, TracingSettings
from lipsync_server.gateway.tensors import request_of
from lipsync_server.gateway.tracing import opened

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


class Traced(Triton):
    """Keeps the headers of inference requests; of probes too."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []
        self.broken = False

    def ModelInfer(self, request, context):
        self.headers.append(dict(context.invocation_metadata()))
        if self.broken:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        return super().ModelInfer(request, context)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.service = ""
        self.arrived = threading.Condition()

    def Export(self, request, context):
        with self.arrived:
            for resource in request.resource_spans:
                for attribute in resource.resource.attributes:
                    if attribute.key == "service.name":
                        self.service = attribute.value.string_value
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            self.arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def triton() -> Iterator[Traced]:
    with serving(Traced()) as fake:
        yield fake


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, dict[str, Any]]]:
    """A collector, and the settings that send spans there."""
    receiver, server = Receiver(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, {"tracing": {"otlp_endpoint": f"http://127.0.0.1:{port}", "service_name": "faces"}}
    server.stop(None).wait(WAIT_S)


async def frames(url: str, count: int, **headers: str) -> int:
    async with AsyncClient(url, timeout=10, headers=headers) as client:
        request = Request(np.zeros(1000, np.float32), 0, True, 0, count, 0)
        return len((await client.attempt(request, "demo")).frames)


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_a_callers_trace_goes_on_through_the_gateway_into_the_server(
    triton: Traced, receiver: tuple[Receiver, dict[str, Any]], tmp_path: Path
) -> None:
    collector, settings = receiver
    log = tmp_path / "requests.log"
    settings["request_log"] = {"file": str(log), "format": "json"}

    async def main() -> None:
        async with gateway(triton, tmp_path / "none.yaml", **settings) as at:
            assert await frames(at.grpc, 4, **HEADERS) == 4
            async with grpc.aio.insecure_channel(at.grpc) as to:
                call = to.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"junk", timeout=WAIT_S)
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            request = urllib.request.Request(f"http://{at.http}/v2/nothing", headers=HEADERS)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                await asyncio.to_thread(urllib.request.urlopen, request, timeout=WAIT_S)

    asyncio.run(main())
    first, _, over_http = collector.spans
    assert (over_http.trace_id.hex(), over_http.parent_span_id.hex()) == (TRACE, PARENT)
    assert (first.trace_id.hex(), first.parent_span_id.hex(), first.name) == (TRACE, PARENT, "ModelInfer")
    assert first.kind == Span.SPAN_KIND_SERVER and collector.service == "faces"
    wanted = {"lipsync.model": "lipsync_ensemble", "lipsync.avatar": "demo", "lipsync.frames": 4, "lipsync.code": "OK"}
    assert wanted.items() <= attributes(first).items()
    (passed_on,) = [one for one in triton.headers if TRACE in one.get("traceparent", "")]
    assert passed_on["traceparent"] == f"00-{TRACE}-{first.span_id.hex()}-01"
    assert passed_on["tracestate"] == "vendor=1"
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [line["trace"] for line in lines] == [span.trace_id.hex() for span in collector.spans]
    assert [attributes(span)["lipsync.code"] for span in collector.spans[1:]] == ["INVALID_ARGUMENT", "403"]
    assert {span.status.code for span in collector.spans} == {Status.STATUS_CODE_UNSET}, "these are callers' faults"


def test_each_message_of_a_stream_has_a_span(
    triton: Traced, receiver: tuple[Receiver, dict[str, Any]], tmp_path: Path
) -> None:
    collector, settings = receiver
    asked = request_of("lipsync_ensemble", AUDIO=np.zeros(640, np.float32), FRAME_COUNT=np.array([2], np.int32))

    async def main() -> None:
        async with gateway(triton, tmp_path / "none.yaml", **settings) as at, grpc.aio.insecure_channel(at.grpc) as to:
            method = "/inference.GRPCInferenceService/ModelStreamInfer"
            stream = to.stream_stream(method)(timeout=WAIT_S, metadata=tuple(HEADERS.items()))
            for _ in range(2):
                await stream.write(encoded(asked))
                await stream.read()
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK

    asyncio.run(main())
    assert [(span.trace_id.hex(), span.name) for span in collector.spans] == [(TRACE, "ModelStreamInfer")] * 2
    assert len({span.span_id for span in collector.spans}) == 2


def test_a_servers_failure_is_an_error_in_the_trace(
    triton: Traced, receiver: tuple[Receiver, dict[str, Any]], tmp_path: Path
) -> None:
    collector, settings = receiver

    async def main() -> None:
        async with gateway(triton, tmp_path / "none.yaml", **settings, patience_s=0.1) as at:
            assert await frames(at.grpc, 1) == 1
            triton.broken = True
            with pytest.raises(LipsyncError):
                await frames(at.grpc, 1)

    asyncio.run(main())
    assert [span.status.code for span in collector.spans] == [Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR]


def test_without_the_setting_no_trace_is_passed_on(triton: Traced, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(triton, tmp_path / "none.yaml") as at:
            assert await frames(at.grpc, 4, **HEADERS) == 4

    asyncio.run(main())
    assert not any("traceparent" in one for one in triton.headers)


def test_a_collector_that_is_gone_costs_no_frame(triton: Traced, tmp_path: Path) -> None:
    async def main() -> None:
        settings = {"tracing": {"otlp_endpoint": "http://127.0.0.1:9"}}
        async with gateway(triton, tmp_path / "none.yaml", **settings) as at:
            assert await frames(at.grpc, 4) == 4

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_a_gateway_without_traces_does_not_even_import_opentelemetry() -> None:
    program = "import sys, lipsync_server.gateway.run; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_what_is_missing_for_traces_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(TracingSettings()) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(LipsyncError, match=r"pip install 'lipsync-triton\[otel\]'"):
        opened(TracingSettings(otlp_endpoint="http://127.0.0.1:4317"))
    with pytest.raises(SettingsError, match=r"gateway.tracing.otlp_endpoint is '127.0.0.1'; allowed is a URL such as"):
        GatewaySettings.from_dict({"upstreams": ("a:1",), "tracing": {"otlp_endpoint": "127.0.0.1"}})

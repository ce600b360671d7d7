"""OpenTelemetry: a span for each request, as part of the caller's trace, which goes on in the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lipsync_client.errors import LipsyncError
from lipsync_server.gateway.request_log import Record
from lipsync_server.gateway.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["Tracer", "opened"]

EXPORT_S = 3.0  # that the collector may take for a batch; the gateway waits so long when it stops
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class Tracer:
    """Makes the spans. They are exported by a thread of their own.

    Args:
        provider: where spans go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("lipsync_server.gateway")
        self._propagator = TraceContextTextMapPropagator()

    def start(self, record: Record, carrier: Mapping[str, str]) -> Span:
        """The span of a request, whose trace the record then names.

        Args:
            record: what is known of the request.
            carrier: its headers. `traceparent` and `tracestate` (W3C Trace Context) are read.
        """
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(record.method, self._propagator.extract(carrier), SpanKind.SERVER)
        record.trace = f"{span.get_span_context().trace_id:032x}"
        return span

    def end(self, span: Span, record: Record) -> None:
        """The request has ended."""
        from opentelemetry.trace import StatusCode

        span.set_attributes(_attributes(record))
        if record.code in FAULTS or (record.protocol == "http" and record.code >= "500"):
            span.set_status(StatusCode.ERROR, record.code)
        span.end()

    def headers(self, span: Span) -> list[tuple[str, str]]:
        """The headers that make an upstream's spans parts of this one."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return list(carrier.items())

    def close(self) -> None:
        """Export what waits; a collector that does not answer is not waited for."""
        # Some versions try again and again for a minute before they end.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(EXPORT_S)


def opened(settings: TracingSettings) -> Tracer | None:
    """The tracer that the settings ask for; None: none. Raises LipsyncError if OpenTelemetry is not installed."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ModuleNotFoundError as error:
        raise LipsyncError(
            f"gateway.tracing.otlp_endpoint needs {error.name}: pip install 'lipsync-triton[otel]'"
        ) from None
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # not each attempt at a collector that is gone
    provider = TracerProvider(
        resource=Resource.create({"service.name": settings.service_name}),
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, timeout=int(EXPORT_S))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracer(provider)


def _attributes(record: Record) -> dict[str, Any]:
    values = {
        "client.address": record.caller,
        "lipsync.protocol": record.protocol,
        "lipsync.token": record.token,
        "lipsync.model": record.model,
        "lipsync.avatar": record.avatar,
        "lipsync.frames": record.frames,
        "lipsync.code": record.code,
    }
    return {name: value for name, value in values.items() if value != ""}

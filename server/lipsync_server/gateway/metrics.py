"""The gateway's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)


class Metrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "lipsync_gateway_requests",
            "Inference requests by how they came and how they ended.",
            ["front", "outcome"],
            registry=self._registry,
        )
        self.refusals = Counter(
            "lipsync_gateway_refusals", "Requests that got no frames, by reason.", ["reason"], registry=self._registry
        )
        self.frames = Counter("lipsync_gateway_frames", "Frames that were sent.", registry=self._registry)
        self.slow_frames = Counter(
            "lipsync_gateway_slow_frames",
            "Frames whose request took longer than they are shown: a live session that has no others is late.",
            registry=self._registry,
        )
        self.first_frame = Histogram(
            "lipsync_gateway_first_frame_seconds",
            "From a request's arrival to its frames.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.open = Gauge("lipsync_gateway_open_requests", "Requests that are open now.", registry=self._registry)
        self.attempts = Counter(
            "lipsync_gateway_attempts",
            "Calls of upstreams by how they ended.",
            ["upstream", "status"],
            registry=self._registry,
        )
        self.ready = Gauge(
            "lipsync_gateway_upstream_ready",
            "1 where an upstream has made a frame a moment ago.",
            ["upstream"],
            registry=self._registry,
        )
        self.upstream_open = Gauge(
            "lipsync_gateway_upstream_open", "Calls that an upstream works on.", ["upstream"], registry=self._registry
        )

        self.log_dropped = Gauge(
            "lipsync_gateway_request_log_dropped",
            "Requests that are not in the request log, because it could not keep up.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)

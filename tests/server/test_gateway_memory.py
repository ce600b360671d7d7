"""Messages over gRPC that come slowly, or never whole: they hang nobody, and are not held for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway_process import gateway
from half_open import Flood
from lipsync_client import Client
from speech import real_speech

SECONDS = 60
COUNT, SIZE = 50, 8 << 20
LIMITS = {"max_message_size_mb": SIZE >> 20, "max_reading_mb": 16, "body_timeout_s": 8}
MONOLITHIC = "/monolithic.MonolithicService/InferBatchComposite"


def memory_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "method", ["/inference.GRPCInferenceService/ModelInfer", "/grpc.health.v1.Health/Watch", MONOLITHIC]
)
def test_half_messages_hang_nobody_and_are_not_held(server, tmp_path, method: str) -> None:
    """Also of methods whose messages are small, and that need no token."""
    with gateway(tmp_path, server.grpc_url, **LIMITS) as front:
        front.wait()
        before = memory_of(front.process.pid)
        address = front.monolithic if method == MONOLITHIC else front.grpc
        with Flood(address, method, count=COUNT, size=SIZE) as flood, Client(front.grpc, timeout=SECONDS) as client:
            most, rendered, deadline = 0, 0, time.monotonic() + SECONDS
            while flood.open:
                assert time.monotonic() < deadline, f"{flood.open} calls are held"
                most = max(most, memory_of(front.process.pid) - before)
                rendered += len(client.infer(real_speech()[:16_000], frame_count=1).frames)
            assert rendered, "others are served meanwhile"
            assert flood.sent > 10 * SIZE // 2, "the test sends what it should"
            assert most < 120 << 20, "which is 200 and more without limits"

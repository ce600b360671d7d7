"""A gRPC server that speaks Triton's protocol and answers like the lip-sync models, without any.

Its clock is another than the real server's, so that a constant copied into the client would show. A "JPEG" is the text
of the samples that the frame depends on: two ways of cutting a speech agree only if each frame saw the same speech.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from lipsync_client import Timeline

TIMELINE = Timeline(sample_rate=1000, fps=25, samples_before=91, samples_after=110, max_frames=8, max_samples=100_000)
AVATAR = {
    "avatar_id": "demo",
    "avatar_key": "77",
    "frame_width": "64",
    "frame_height": "48",
    "footage_frames": "10",
    "loop": "forward",
}
WAIT_S = 20  # no test may hang
DTYPES = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}


def picture(speech: np.ndarray, frame: int) -> bytes:
    """What the fake answers for a frame of a speech that is followed by zeros."""
    at = frame * TIMELINE.samples_per_frame
    padded = np.pad(speech, (TIMELINE.samples_before, TIMELINE.samples_after))
    return padded[at : at + TIMELINE.samples_before + TIMELINE.samples_after].tobytes()


@dataclass
class Seen:
    """One request as it arrived."""

    first: int
    count: int
    samples: int
    footage_start: int
    model: str
    cancelled: threading.Event = field(default_factory=threading.Event)


class FakeServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`on_request(number, seen, context)` runs before an answer: it may wait, or abort the request."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self.url = ""
        self.ready = True
        self.absent = 0  # so many of the next questions for a model's configuration find no server
        self.loaded: set[str] | None = {"lipsync_ensemble"}  # None: the server ends when it is asked for that
        self.on_request: Callable[[int, Seen, grpc.ServicerContext], None] = lambda number, seen, context: None
        self._now = 0
        self._lock = threading.Lock()

    picture_of = staticmethod(np.ndarray.tobytes)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def ModelReady(self, request, context):
        if self.loaded is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return service_pb2.ModelReadyResponse(ready=request.name in self.loaded)

    def ModelConfig(self, request, context):
        if self.absent:
            self.absent -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        known = {"mel_preprocess": {k: str(v) for k, v in vars(TIMELINE).items()}, "lipsync": AVATAR}
        if request.name not in known:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        answer = service_pb2.ModelConfigResponse()
        for name, value in known[request.name].items():
            answer.config.parameters[name].string_value = value
        return answer

    def ModelInfer(self, request, context):
        values = {
            tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype])
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        first, count = int(values["FIRST_FRAME"][0]), int(values["FRAME_COUNT"][0])
        seen = Seen(first, count, len(values["AUDIO"]), int(values["FOOTAGE_START"][0]), request.model_name)
        done: list[bool] = []
        if not context.add_callback(lambda: None if done else seen.cancelled.set()):
            seen.cancelled.set()  # it was cancelled before it got here
        with self._lock:
            number = len(self.seen)
            self.seen.append(seen)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self.on_request(number, seen, context)
            return self._answer(values, first, count)
        finally:
            done.append(True)
            with self._lock:
                self._now -= 1

    def _answer(self, values, first, count):
        # A frame's context that lies before the slice must lie before the speech; none may lie after the slice.
        start = int(values["AUDIO_START"][0])
        audio = np.pad(values["AUDIO"], (TIMELINE.samples_before, 0)) if start == 0 else values["AUDIO"]
        start -= TIMELINE.samples_before if start == 0 else 0
        pictures = []
        for frame in range(first, first + count):
            at = frame * TIMELINE.samples_per_frame - start
            part = audio[at - TIMELINE.samples_before : at + TIMELINE.samples_after]
            assert len(part) == TIMELINE.samples_before + TIMELINE.samples_after, "context missing"
            pictures.append(self.picture_of(part))
        answer = service_pb2.ModelInferResponse(model_name="lipsync_ensemble")
        frames = np.array(pictures, dtype=object)
        for name, kind, value, raw in (
            ("JPEG", "BYTES", frames, serialize_byte_tensor(frames).item()),
            ("FRAME_INDEX", "INT64", index := np.arange(first, first + count), index.tobytes()),
            ("TIMINGS_MS", "FP32", times := np.array([1, 2, 3, 6], np.float32), times.tobytes()),
        ):
            answer.outputs.add(name=name, datatype=kind, shape=value.shape)
            answer.raw_output_contents.append(raw)
        return answer


@contextmanager
def running(
    fake: FakeServer,
    port: int = 0,
    *,
    tls: grpc.ServerCredentials | None = None,
    interceptors: Sequence[grpc.ServerInterceptor] = (),
) -> Iterator[FakeServer]:
    """The fake, listening on 127.0.0.1; port 0 takes a free one."""
    server = grpc.server(futures.ThreadPoolExecutor(16), interceptors=interceptors)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    fake.url = f"{'grpcs://' if tls else ''}127.0.0.1:{bound}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait(WAIT_S)

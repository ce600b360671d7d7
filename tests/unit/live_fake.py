"""What live sessions are tested with: a fake server that also gives idle frames, and what holds for every session."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import grpc
import numpy as np
from client_fake import AVATAR, TIMELINE, FakeServer, Seen, picture
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from lipsync_client import LiveFrame
from lipsync_client.live.footage import looped
from lipsync_client.wire import avatar_from_parameters

FRAME = TIMELINE.samples_per_frame
JPEG_HEADER = b"\xff\xd8\xff\xda\x00\x02"  # of patches; what follows is no scan


class LiveFake(FakeServer):
    """A talking picture names its footage frame too, an idle one its avatar's key and its footage frame."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = dict(AVATAR)
        self.patches = True  # the avatar's ensemble takes PATCHES
        self.idle: list[int] = []  # footage positions, as they were asked for
        self.on_idle: Callable[[grpc.ServicerContext], None] = lambda context: None

    def ModelConfig(self, request, context):
        if request.name == "lipsync_ensemble":
            answer = service_pb2.ModelConfigResponse()
            answer.config.input.add(name="PATCHES" if self.patches else "AUDIO")
            return answer
        answer = super().ModelConfig(request, context)
        for name, value in self.facts.items() if request.name == "lipsync" else ():
            answer.config.parameters[name].string_value = value
        return answer

    def ModelInfer(self, request, context):
        if request.model_name != "composite":
            return super().ModelInfer(request, context)
        return self._footage(request, context)

    def _answer(self, values, first, count):
        start = int(values["FOOTAGE_START"][0])
        answer = super()._answer(values, first, count)
        pictures = deserialize_bytes_tensor(answer.raw_output_contents[0])
        placed = [talking_picture(picture, start + offset) for offset, picture in enumerate(pictures)]
        answer.raw_output_contents[0] = serialize_byte_tensor(np.array(placed, dtype=object)).item()
        if "PATCHES" in values:
            assert self.patches
            placed = [JPEG_HEADER + picture for picture in placed]
            answer.raw_output_contents[0] = serialize_byte_tensor(np.array(placed, dtype=object)).item()
            answer.outputs[0].name = "PATCH"
            boxes = np.array([patch_box(start + offset) for offset in range(count)], np.int32)
            answer.outputs.add(name="PATCH_BOX", datatype="INT32", shape=boxes.shape)
            answer.raw_output_contents.append(boxes.tobytes())
            answer.outputs.add(name="PATCH_KEY", datatype="INT64", shape=[count])
            answer.raw_output_contents.append(np.full(count, int(self.facts["avatar_key"])).tobytes())
            answer.outputs.add(name="JPEG", datatype="BYTES", shape=[0])
            answer.raw_output_contents.append(b"")
        return answer

    def _footage(self, request, context):
        self.on_idle(context)
        keys, positions = (np.frombuffer(raw, np.int64).tolist() for raw in request.raw_input_contents)
        if {str(key) for key in keys} != {self.facts["avatar_key"]}:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"avatar_key is {keys[0]}, but there is no such avatar")
        self.idle += positions
        avatar = avatar_from_parameters(self.facts)
        frames = np.array([idle_picture(looped(position, avatar), keys[0]) for position in positions], dtype=object)
        answer = service_pb2.ModelInferResponse(model_name="composite")
        for name, kind, value, raw in (
            ("JPEG", "BYTES", frames, serialize_byte_tensor(frames).item()),
            ("FRAME_INDEX", "INT64", index := np.arange(len(frames)), index.tobytes()),
            ("TIMINGS_MS", "FP32", times := np.zeros(4, np.float32), times.tobytes()),
        ):
            answer.outputs.add(name=name, datatype=kind, shape=value.shape)
            answer.raw_output_contents.append(raw)
        return answer


def talking_picture(heard: bytes, position: int) -> bytes:
    """Of the samples that the frame depends on, and the footage's position."""
    return heard + b"@%d" % (position % int(AVATAR["footage_frames"]))


def patch_box(position: int) -> tuple[int, int, int, int]:
    """Another one for every footage frame."""
    return position % int(AVATAR["footage_frames"]), 16, 32, 16


def idle_picture(index: int, key: int = int(AVATAR["avatar_key"])) -> bytes:
    return f"idle {key} {index}".encode()


def check_steady(frames: list[LiveFrame]) -> None:
    """What holds for every session: numbers and times without gaps, no jump in the footage, the right pictures."""
    for before, after in itertools.pairwise(frames):
        assert after.index == before.index + 1
        assert after.time_s == after.index / TIMELINE.fps
        assert abs(after.footage_position - before.footage_position) <= 1
    for frame in frames:
        assert frame.audio.shape == (FRAME,)
        assert (frame.audio_span is None) == (frame.speech_frame is None)
        if frame.speech_frame is None:
            assert frame.jpeg == idle_picture(frame.footage_position % int(AVATAR["footage_frames"]))
            assert not frame.audio.any()


def check_speech(frames: list[LiveFrame], speech: np.ndarray, number: int = 1) -> None:
    """Exactly the frames of the speech, in order, each with its own sound."""
    talking = [frame for frame in frames if frame.speech_id == number and frame.speech_frame is not None]
    total = TIMELINE.frame_count(len(speech))
    assert [frame.speech_frame for frame in talking] == list(range(total))
    for frame in talking:
        assert frame.jpeg == talking_picture(picture(speech, frame.speech_frame), frame.footage_position)
    assert all(frame.state == "speaking" for frame in talking)
    padded = np.pad(speech, (0, FRAME))
    for frame in talking:
        start, stop = frame.audio_span
        assert (start, stop) == (frame.speech_frame * FRAME, min(start + FRAME, len(speech)))
        np.testing.assert_array_equal(frame.audio, padded[start : start + FRAME])
    assert [frame.last for frame in talking] == [False] * (total - 1) + [True]


def positions_asked(seen: list[Seen]) -> list[int]:
    return [one.footage_start + offset for one in seen for offset in range(one.count)]

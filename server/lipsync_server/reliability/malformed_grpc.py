"""Malformed requests over KServe's gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from lipsync_server.reliability.kinds import Kinds

__all__ = ["GRPC", "HUGE", "GrpcRequest", "changed"]

SERVICE = "/inference.GRPCInferenceService"
MODEL = "lipsync_ensemble"
HUGE = (2**62, 2**40, 2**33, 2**61 + 1)
NAMES = {"f": "FP32", "i": "INT64", "u": "UINT8", "b": "BOOL"}
QUIET = np.zeros(8_000, np.float32)
NAN = np.array([0.0, np.nan, 0.0], np.float32)
INF = np.array([0.0] * 9 + [-np.inf], np.float32)
BAD_VALUES: tuple[dict[str, Any], ...] = (  # of tensors that are well formed: the stages refuse them
    {},
    {"AUDIO": QUIET[:0]},
    {"AUDIO": NAN},
    {"AUDIO": INF},
    *({"AUDIO": QUIET, "FRAME_COUNT": np.int32(count)} for count in (0, -1, 33, 2**31 - 1)),
    *({"AUDIO": QUIET, "FIRST_FRAME": first} for first in (-1, 13, 2**63 - 1)),
    {"AUDIO": QUIET, "FIRST_FRAME": 10, "FRAME_COUNT": np.int32(6)},
    {"AUDIO": QUIET, "AUDIO_END": False, "FIRST_FRAME": 2},
    {"AUDIO": QUIET[:7_239], "AUDIO_END": False},
    *({"AUDIO": QUIET, "AUDIO_START": start} for start in (1, -1, 2**62)),
    *({"AUDIO": QUIET, "FOOTAGE_START": start} for start in (-1, 2**63 - 1)),
)


@dataclass(frozen=True)
class GrpcRequest:
    """A call: its method, the bytes of its message, its metadata, whether it is a stream of one, or compressed."""

    method: str
    data: bytes
    metadata: tuple[tuple[str, str], ...] = ()
    stream: bool = False
    packed: bool = False


GRPC: Kinds[GrpcRequest] = Kinds()


def tensors(model: str = MODEL, **values: Any) -> pb.ModelInferRequest:
    """A request with these inputs, in the types that they have."""
    request = pb.ModelInferRequest(model_name=model)
    for name, value in values.items():
        array = np.atleast_1d(value)
        kind = "INT32" if array.dtype == np.int32 else NAMES[array.dtype.kind]
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def valid() -> pb.ModelInferRequest:
    """One frame."""
    return tensors(AUDIO=QUIET[:640])


def changed(random: Random, data: bytes) -> bytes:
    """Some bytes of a message changed, often in its first ones, and sometimes its end cut off."""
    found = bytearray(data if random.random() < 0.7 else data[: random.randint(1, len(data))])
    for _ in range(random.randint(1, 4)):
        found[random.randrange(min(len(found), 80 if random.random() < 0.8 else len(found)))] = random.randrange(256)
    return bytes(found)


def infer(request: pb.ModelInferRequest) -> GrpcRequest:
    return GrpcRequest(f"{SERVICE}/ModelInfer", request.SerializeToString())


@GRPC.add("a shape whose bytes overflow", weight=3)
def _huge(random: Random) -> GrpcRequest:
    request = pb.ModelInferRequest(model_name=random.choice((MODEL, "lipsync_visual_ensemble", "composite")))
    size = random.choice((*HUGE, random.randint(2**31, 2**63 - 1)))
    shape = random.choice(([size], [size, 2], [2**32, 2**32], [size] * 4))
    name, kind = random.choice((("AUDIO", "FP32"), ("VISUAL_FRAMES", "FP32"), ("avatar_key", "INT64")))
    request.inputs.add(name=name, datatype=kind, shape=shape)
    if random.random() < 0.5:
        request.raw_input_contents.append(bytes(random.choice((0, 4, 64))))
    return infer(request)


@GRPC.add("classification")
def _classification(random: Random) -> GrpcRequest:
    request = valid()
    output = request.outputs.add(name=random.choice(("JPEG", "FRAME_INDEX", "TIMINGS_MS")))
    output.parameters["classification"].int64_param = random.choice((1, 0, 1000, -1, 2**62))
    return infer(request)


@GRPC.add("shared memory")
def _shared_memory(random: Random) -> GrpcRequest:
    request = valid()
    place = random.choice((request.inputs[0], request.outputs.add(name="JPEG")))
    place.parameters["shared_memory_region"].string_param = random.choice(
        ("lipsync", "../../etc/passwd", "", "x" * 999)
    )
    place.parameters["shared_memory_byte_size"].int64_param = random.choice((0, 2**40, -1))
    place.parameters["shared_memory_offset"].int64_param = random.choice((0, 2**40, -1))
    return infer(request)


@GRPC.add("another data type")
def _data_type(random: Random) -> GrpcRequest:
    request = valid()
    request.inputs[0].datatype = random.choice(("BYTES", "FP64", "INT16", "", "FP32 ", "\u00e9" * 500, "BOOL"))
    return infer(request)


@GRPC.add("another shape")
def _shape(random: Random) -> GrpcRequest:
    request = valid()
    shapes: tuple[list[int], ...] = (
        [],
        [-1],
        [640, 1],
        [1] * 1000,
        [0],
        [-(2**62)],
        [2, -320],
        [random.randint(-999, 639)],
    )
    request.inputs[0].shape[:] = random.choice(shapes)
    return infer(request)


@GRPC.add("more or fewer bytes than the shape says")
def _byte_count(random: Random) -> GrpcRequest:
    request = valid()
    request.raw_input_contents[0] = bytes(random.choice((0, 1, 2559, 2561, random.randint(0, 60_000))))
    if random.random() < 0.3:
        request.raw_input_contents.extend([b""] * random.choice((1, 1000)))
    return infer(request)


@GRPC.add("data in the wrong field, or twice")
def _contents(random: Random) -> GrpcRequest:
    request = valid()
    contents = request.inputs[0].contents
    getattr(contents, random.choice(("int_contents", "fp64_contents", "bool_contents", "uint64_contents"))).append(1)
    if random.random() < 0.5:
        contents.fp32_contents.extend([0.0] * random.choice((639, 640, 641)))
    if random.random() < 0.7:
        del request.raw_input_contents[:]
    return infer(request)


@GRPC.add("names that the model has not, or twice")
def _names(random: Random) -> GrpcRequest:
    request = valid()
    name = random.choice(("AUDIO", "audio", "", "AUDIO\0", "x" * 5000, "mouth", "clock", "../AUDIO"))
    if random.random() < 0.5:
        request.inputs.add(name=name, datatype="FP32", shape=[0])
        request.raw_input_contents.append(b"")
    else:
        request.outputs.extend([pb.ModelInferRequest.InferRequestedOutputTensor(name=name)] * 2)
    return infer(request)


@GRPC.add("names of models and versions that are none, or closed")
def _models(random: Random) -> GrpcRequest:
    request = valid()
    inner = ("lipsync", "mel_preprocess", "audio_encoder_int8", "lipsync_visual", "nobody")
    wrong = ("", "../../etc", "a/b", "\0", "x" * 10_000, "..", "lipsync_ensemble ", "\u202e")
    request.model_name = random.choice(inner + wrong)
    request.model_version = random.choice(("", "", "-1", "999999", "1" * 30, "latest"))
    return infer(request)


@GRPC.add("parameters that are not taken")
def _parameters(random: Random) -> GrpcRequest:
    request = valid()
    name = random.choice(("sequence_id", "sequence_start", "timeout", "priority", "binary_data", "x" * 2000, ""))
    place: Any = random.choice((request, request.inputs[0]))
    if random.random() < 0.5:
        place.parameters[name].string_param = random.choice(("1", "x" * 1000))
    else:
        place.parameters[name].int64_param = random.choice((-1, -(2**63)))
    request.id = "i" * random.choice((0, 257, 100_000))
    return infer(request)


@GRPC.add("values that the stages refuse", weight=3)
def _values(random: Random) -> GrpcRequest:
    return infer(tensors(**random.choice(BAD_VALUES)))


@GRPC.add("wrong crops of one's own")
def _visual(random: Random) -> GrpcRequest:
    crops: NDArray[np.float32] = np.zeros((1, *random.choice(((6, 32, 32), (3, 320, 320), (6, 320, 319)))), np.float32)
    values = random.choice(({"AUDIO": QUIET}, {"VISUAL_FRAMES": crops}, {"AUDIO": QUIET, "VISUAL_FRAMES": crops}))
    return infer(tensors("lipsync_visual_ensemble", **values))


@GRPC.add("wrong calls of composite")
def _composite(random: Random) -> GrpcRequest:
    key = np.array([[random.choice((12345, -1, 2**62))]])
    rows = random.choice((1, 2, 33, 1000))
    position = np.full((rows, 1), random.choice((0, -1, 2**62)))
    inner: tuple[dict[str, Any], ...] = ({}, {"mouth": np.zeros((1, 4, 4, 3), np.uint8)}, {"clock": np.zeros(3, int)})
    return infer(tensors("composite", avatar_key=key, footage_position=position, **random.choice(inner)))


@GRPC.add("bytes that are no message")
def _noise(random: Random) -> GrpcRequest:
    return GrpcRequest(f"{SERVICE}/ModelInfer", random.randbytes(random.choice((1, 46, 1000, 20_000))))


@GRPC.add("changed bytes of a good request", weight=3, also=("OK",))
def _changed(random: Random) -> GrpcRequest:
    return GrpcRequest(f"{SERVICE}/ModelInfer", changed(random, valid().SerializeToString()))


@GRPC.add("a message above the limit", weight=0.005)
def _large(random: Random) -> GrpcRequest:
    return GrpcRequest(f"{SERVICE}/ModelInfer", bytes(121 << 20))


@GRPC.add("31 minutes of audio", weight=0.005)
def _long(random: Random) -> GrpcRequest:
    return infer(tensors(AUDIO=np.zeros(31 * 60 * 16_000, np.float32)))


@GRPC.add("30 minutes of audio and a wrong value", weight=0.005)
def _long_wrong(random: Random) -> GrpcRequest:
    wrong: tuple[dict[str, Any], ...] = ({"FRAME_COUNT": np.int32(33)}, {"FIRST_FRAME": -1}, {"AUDIO_START": 1})
    return infer(tensors(AUDIO=np.zeros(30 * 60 * 16_000, np.float32), **random.choice(wrong)))


@GRPC.add("compressed messages", weight=0.2)
def _packed(random: Random) -> GrpcRequest:
    quiet = tensors(AUDIO=np.zeros(random.choice((640, 1_000_000)), np.float32))
    return GrpcRequest(f"{SERVICE}/ModelInfer", quiet.SerializeToString(), packed=True)


@GRPC.add("control without the key")
def _control(random: Random) -> GrpcRequest:
    calls: tuple[tuple[str, Any], ...] = (
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=MODEL)),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="../x")),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=2**40)),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
        ("TraceSetting", pb.TraceSettingRequest()),
        ("LogSettings", pb.LogSettingsRequest()),
    )
    method, message = random.choice(calls)
    header = "triton-grpc-protocol-lipsync-control"
    keys = (), ((header, "wrong-key-wrong-key"),), ((header, "x" * 4000),), (("authorization", "Bearer nobody"),)
    return GrpcRequest(f"{SERVICE}/{method}", message.SerializeToString(), random.choice(keys))


@GRPC.add("questions about models that are none", also=("OK",))  # ModelReady: no
def _questions(random: Random) -> GrpcRequest:
    name = random.choice(("nobody", "../x", "\0", "x" * 5000))
    kinds = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
    method = random.choice(kinds)
    return GrpcRequest(f"{SERVICE}/{method}", getattr(pb, f"{method}Request")(name=name).SerializeToString())


@GRPC.add("methods that there are not")
def _methods(random: Random) -> GrpcRequest:
    return GrpcRequest(random.choice((f"{SERVICE}/Nothing", "/a/b", f"{SERVICE}/modelinfer", "/x" * 500)), b"")


@GRPC.add("wrong messages in a stream")
def _stream(random: Random) -> GrpcRequest:
    one = random.choice((_huge, _classification, _shape, _byte_count, _names, _noise))(random)
    return GrpcRequest(f"{SERVICE}/ModelStreamInfer", one.data, stream=True)

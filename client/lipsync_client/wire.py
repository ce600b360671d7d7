"""Between our types and Triton's: names of models, tensors, and errors. Shared by both clients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lipsync_client.answers import Avatar, Frame, Patch, Result, Timings
from lipsync_client.avatar_facts import AvatarFacts
from lipsync_client.errors import (
    AccessDenied,
    AvatarNotFound,
    ControlDenied,
    InvalidRequest,
    LipsyncError,
    LoadFailed,
    Overloaded,
    ServerError,
    ServerUnavailable,
    Timeout,
    UntrustedServer,
    WrongServer,
)
from lipsync_client.timeline import Request, Timeline
from lipsync_mel import refusals

if TYPE_CHECKING:
    from tritonclient.grpc import InferInput, InferResult
    from tritonclient.grpc.model_config_pb2 import ModelConfig
    from tritonclient.utils import InferenceServerException

DEFAULT_URL = "127.0.0.1:8001"
SHIPPED_AVATAR = "demo"
TIMELINE_MODEL = "mel_preprocess"
COMPOSITE_MODEL = "composite"
# What gRPC says where something else answers.
NO_GRPC = re.compile("Failed parsing HTTP/2|http1.x server|missing selected ALPN|Method not found")
CA_FILE_VARIABLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"  # gRPC's own; read here, because gRPC reads it once a process
DENIED = {  # gRPC's status, and what it means
    "UNAUTHENTICATED": "does not know the caller: give a token that it has given out and that has not expired",
    "PERMISSION_DENIED": "does not allow this",
}


def ensemble_of(avatar: str) -> str:
    """The model that clients call for an avatar."""
    return "lipsync_ensemble" if avatar == SHIPPED_AVATAR else avatar


def lipsync_of(avatar: str) -> str:
    """The model that holds the avatar's network and footage."""
    return "lipsync" if avatar == SHIPPED_AVATAR else f"{avatar}_lipsync"


def encoder_of(avatar: str) -> str:
    """The model with the avatar's own audio encoder, which few have."""
    return f"{avatar}_audio_encoder"


def parameters_of(config: ModelConfig) -> dict[str, str]:
    """The string parameters of a model's config."""
    return {name: value.string_value for name, value in config.parameters.items()}


def avatar_from_parameters(parameters: dict[str, str]) -> Avatar:
    """Raises ServerError if a fact is missing."""
    facts = AvatarFacts.from_parameters(parameters)
    return Avatar(
        id=facts.avatar_id,
        key=facts.avatar_key,
        frame_width=facts.frame_width,
        frame_height=facts.frame_height,
        footage_frames=facts.footage_frames,
        loop=facts.loop,
        preset=facts.preset,
    )


def overtaken(url: str, avatar: str) -> ServerUnavailable:
    """The error of a request that a replacement or an unload overtook; it may succeed when it is sent again."""
    return ServerUnavailable(f"The avatar {avatar!r} was replaced or unloaded on the server at {url} just now.")


def explained(
    failure: AvatarNotFound, url: str, avatar: str, *, server_ready: bool, avatar_ready: bool
) -> LipsyncError:
    """The true reason of an AvatarNotFound, by what the server says of itself and of the avatar just after it.

    For about two seconds before it ends, a server has no models but still answers. In the moment in which a replacement
    takes an avatar's place, the avatar has no version to serve.
    """
    if not server_ready:
        return ServerUnavailable(f"The server at {url} is stopping. Start one with `lipsync serve`.")
    return overtaken(url, avatar) if avatar_ready else failure


def check_speech(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    """Speech as float32 samples, shape = (n,). Raises InvalidRequest if the server would refuse it or misread it."""
    speech = np.asarray(speech)
    if speech.ndim != 1 or speech.dtype not in (np.float32, np.float64):
        raise InvalidRequest(
            f"speech is {speech.dtype} of shape {speech.shape}; it must be float32 of shape (samples,):"
            " to_speech(samples, rate) converts"
        )
    finite = np.isfinite(speech)
    if not finite.all():
        where = int(np.argmin(finite))
        raise InvalidRequest(f"speech sample {where} is {speech[where]}; samples must be finite")
    peak = float(np.abs(speech).max(initial=0.0))
    if peak > 10:
        raise InvalidRequest(f"speech reaches {peak:.0f}; samples must lie in -1..1: to_speech(samples, rate) converts")
    return np.ascontiguousarray(speech, dtype=np.float32)


def tensors(request: Request) -> list[InferInput]:
    """The ensemble's inputs. Fields that are None are not sent, so the server's defaults hold for them."""
    values: dict[str, NDArray[Any]] = {
        "AUDIO": np.ascontiguousarray(request.audio, dtype=np.float32),
        "AUDIO_START": np.array([request.audio_start], np.int64),
        "AUDIO_END": np.array([request.audio_end], np.bool_),
        "FIRST_FRAME": np.array([request.first_frame], np.int64),
    }
    if request.frame_count is not None:
        values["FRAME_COUNT"] = np.array([request.frame_count], np.int32)
    if request.footage_start is not None:
        values["FOOTAGE_START"] = np.array([request.footage_start], np.int64)
    if request.patches:
        values["PATCHES"] = np.array([True])
    return _inputs(values)


def footage_tensors(key: int, first: int, count: int) -> list[InferInput]:
    """The composite stage's inputs for plain footage: `count` positions of the loop from `first` on."""
    positions = np.arange(first, first + count, dtype=np.int64)[:, None]
    return _inputs({"avatar_key": np.full_like(positions, key), "footage_position": positions})


def _inputs(values: dict[str, NDArray[Any]]) -> list[InferInput]:
    from tritonclient.grpc import InferInput  # here, because names of models and errors are needed without gRPC
    from tritonclient.utils import np_to_triton_dtype

    return [
        InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype)).set_data_from_numpy(value)
        for name, value in values.items()
    ]


def result_from(answer: InferResult) -> Result:
    """The answer of an ensemble, or of the composite stage."""
    return Result(
        patches=_patches_of(answer),
        frames=tuple(answer.as_numpy("JPEG").tolist()),
        frame_index=tuple(answer.as_numpy("FRAME_INDEX").tolist()),
        timings_ms=Timings(*answer.as_numpy("TIMINGS_MS").tolist()),
    )


def _patches_of(answer: InferResult) -> tuple[Patch, ...]:
    patches, boxes, keys = (answer.as_numpy(name) for name in ("PATCH", "PATCH_BOX", "PATCH_KEY"))
    if patches is None or boxes is None or keys is None:  # of a server that knows none
        return ()
    return tuple(
        Patch(jpeg, tuple(box), key)
        for jpeg, box, key in zip(patches.tolist(), boxes.tolist(), keys.tolist(), strict=True)
    )


def frames_of(result: Result, request: Request, timeline: Timeline) -> list[Frame]:
    """Number and time the frames of an answer. Raises ServerError if they are not the ones asked for."""
    _check_frames(result.frame_index, len(result.frames), request)
    return [
        Frame(jpeg, index, timeline.time(index), result.timings_ms)
        for jpeg, index in zip(result.frames, result.frame_index, strict=True)
    ]


def pictures_of(result: Result, request: Request) -> tuple[bytes | Patch, ...]:
    """The frames of an answer, or its patches where the request asked for them. Raises ServerError as `frames_of`."""
    pictures: tuple[bytes | Patch, ...] = result.patches if request.patches else result.frames
    _check_frames(result.frame_index, len(pictures), request)
    return pictures


def _check_frames(numbers: tuple[int, ...], pictures: int, request: Request) -> None:
    wanted = tuple(range(request.first_frame, request.first_frame + (request.frame_count or 0)))
    if numbers != wanted or pictures != len(wanted):
        raise ServerError(f"the server sent {pictures} pictures of the frames {numbers} instead of {wanted}")


def translate(error: InferenceServerException, *, url: str, avatar: str | None) -> LipsyncError:
    """Our error for one of Triton's.

    Triton uses one status for several things. What it reports itself is then told apart by its own English (that of
    2.51, matched here and nowhere else), what a stage reports by the code before its sentence (`lipsync_mel.refusals`).

    Args:
        error: as Triton's client raises it.
        url: the server's address.
        avatar: the avatar that was asked for; None: a model that every avatar needs.
    """
    status = (error.status() or "").removeprefix("StatusCode.")
    text = plain(error.message() or "no reason given")
    if "protocol is restricted" in text:
        return ControlDenied(
            f"The server at {url} needs its control key for this: set LIPSYNC_CONTROL_KEY, or run as the user who"
            " started the server."
        )
    if status == "NOT_FOUND" or re.search(
        "unknown model|no available versions|requested model .* is not available", text
    ):
        if avatar is None:
            return ServerUnavailable(
                f"The server at {url} runs, but its lip-sync models are not loaded; `lipsync status` tells more."
            )
        if "in ensemble" in (error.message() or ""):  # it began, and one of its steps was gone before its turn
            return overtaken(url, avatar)
        return AvatarNotFound(
            f"The server at {url} has no avatar {avatar!r} loaded; `lipsync avatars` shows all, and"
            " `lipsync avatars load` loads one."
        )
    code, text = refusals.parse(text)
    if code == refusals.LOAD_FAILED:
        return LoadFailed(text)
    if code == refusals.OVERLOADED:
        return Overloaded(f"The server at {url} has too much to do at the moment; try again later ({text}).")
    if status in DENIED:
        return AccessDenied(f"The server at {url} {DENIED[status]} ({text}).")
    if status == "UNAVAILABLE" and (reason := _tls_failure(text)):
        return UntrustedServer(f"No TLS connection to {url} can be made: {reason}.")
    if NO_GRPC.search(text):
        return WrongServer(f"What answers at {url} is not a lip-sync server's gRPC port, which is 8001 by default.")
    if status in ("UNAVAILABLE", "CANCELLED"):
        closed = re.search("failed to connect.*Socket closed", text)
        advice = "If it has TLS, write grpcs://" if closed else "Start one with `lipsync serve`"
        return ServerUnavailable(f"No lip-sync server answers at {url}. {advice} ({text}).")
    if status == "DEADLINE_EXCEEDED":
        return Timeout(f"The server at {url} did not answer in time; it may be overloaded, or the time-out too short.")
    if status == "INVALID_ARGUMENT":
        return InvalidRequest(text)
    return ServerError(f"The server at {url} failed ({status or 'no status'}): {text}")


def _tls_failure(text: str) -> str:
    """What is wrong, from gRPC's words for a handshake that failed; "" for other failures."""
    if "WRONG_VERSION_NUMBER" in text:
        return "the server does not speak TLS there; grpc:// connects without"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not trusted here; set {CA_FILE_VARIABLE} to a file with the certificate of its CA"
    if "Hostname Verification" in text:
        return "its certificate is for another name"
    return text if "andshake failed" in text and "SSL" in text else ""


def plain(text: str) -> str:
    """A stage's own sentence, without what Triton and its Python backend put around it."""
    text = re.sub(r"^(\[request id: [^]]*\] )?(in ensemble '[^']*', )?", "", text.strip())
    text = re.sub(r"^Failed to process the request\(s\) for model [^:]*, message: ", "", text)
    text = re.sub(r"^Internal: (TritonModelException: )?", "", text)
    return text.split("\n\nAt:")[0]


def load_failure(text: str) -> str:
    """The reason in Triton's answer to a load that failed, as one line."""
    text = re.sub(r"^load failed for model '[^']*': (version \d+ is at UNAVAILABLE state: )?", "", text.strip())
    return " ".join(plain(text).rstrip("; ").split())

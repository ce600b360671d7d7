"""The monolithic API, `monolithic.MonolithicService`, on the same avatars."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest

from lipsync_client import wire
from lipsync_client.answers import Timings
from lipsync_client.errors import AudioError, LipsyncError
from lipsync_client.media.audio import to_speech
from lipsync_client.timeline import Request
from lipsync_mel import refusals
from lipsync_mel.timeline import MAX_FRAME, MAX_FRAMES, SAMPLE_RATE, SAMPLES_AFTER, SAMPLES_PER_FRAME
from lipsync_server.gateway.avatars import AvatarFigures
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.grpc_front import call_of
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.monolithic_proto import METHODS, SERVICE, message
from lipsync_server.gateway.observer import observed
from lipsync_server.gateway.refusal import Refused, invalid
from lipsync_server.gateway.speech_runs import EXTRA_FRAMES, SpeechRuns
from lipsync_server.gateway.tensors import outputs_of, request_of

__all__ = ["monolithic_service"]

RATES = (8_000, 192_000)  # samples a second that are resampled
Context = Any
Method = Callable[[Any, Context], Awaitable[Any]]


def monolithic_service(gateway: Gateway) -> grpc.GenericRpcHandler:
    """The service's methods. What goes wrong is an answer with success=false."""
    service = _Service(gateway)
    calls: dict[str, Method] = {
        "InferBatchComposite": service.infer,
        "ListModels": service.list_models,
        "LoadModel": service.load,
        "UnloadModel": service.unload,
        "GetModelStats": service.stats,
        "Health": service.health,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE, {name: grpc.unary_unary_rpc_method_handler(_answering(name, call)) for name, call in calls.items()}
    )


def _answering(
    name: str, call: Callable[[Any, Context], Awaitable[Any]]
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """A method for bytes. Where its answer has a field for errors, they stand there."""
    takes: Any = METHODS[name]
    gives = message(f"{name}Response" if name != "InferBatchComposite" else "CompositeBatchResponse")

    async def answer(data: bytes, context: Context) -> bytes:
        try:
            return encoded(await call(takes.FromString(data), context))
        except DecodeError:
            code, sentence = grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {takes.DESCRIPTOR.name}"
        except Refused as refused:
            code, sentence = refused.code, refusals.parse(wire.plain(refused.sentence)).sentence
        except LipsyncError as error:
            code, sentence = grpc.StatusCode.UNAVAILABLE, str(error)
        finally:
            del data  # see GrpcDoor
        observed(code=code.name)
        if "success" in gives.DESCRIPTOR.fields_by_name:
            return encoded(gives(success=False, error=sentence))
        return await context.abort(code, sentence)  # type: ignore[no-any-return]

    return answer


class _Service:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._runs = SpeechRuns()

    async def infer(self, asked: Any, context: Context) -> Any:
        began = time.monotonic()
        call = call_of(context, "monolithic")
        with self._gateway.counted(call):
            avatar = self._avatar(asked.model_id)
            audio = _audio(asked)
            piece = self._runs.request(context.peer(), avatar, audio, asked.batch_size, asked.start_frame_idx)
            answer = await self._gateway.infer_message(_as_triton(piece, wire.ensemble_of(avatar)), call)
        outputs = outputs_of(answer.data)
        times = Timings(*outputs["TIMINGS_MS"].tolist())
        return message("CompositeBatchResponse")(
            composited_frames=outputs["JPEG"].tolist(),
            inference_time_ms=times.inference,
            composite_time_ms=times.composite,
            audio_processing_ms=times.audio,
            total_time_ms=(time.monotonic() - began) * 1000,
            model_loaded=answer.load_s > 0,
            model_load_time_ms=answer.load_s * 1000,
            success=True,
            gpu_id=await self._gateway.avatars.gpu_of(avatar),
        )

    async def list_models(self, asked: Any, context: Context) -> Any:
        return message("ListModelsResponse")(
            models=[
                message("ModelInfo")(**_figures(one), avg_inference_ms=one.stats.request_ms if one.stats else 0)
                for one in await self._gateway.avatars.figures()
            ]
        )

    async def stats(self, asked: Any, context: Context) -> Any:
        return message("GetModelStatsResponse")(
            models=[
                message("ModelStats")(
                    **_figures(one),
                    total_inference_ms=round(one.stats.requests * one.stats.request_ms),
                    avg_inference_ms=one.stats.request_ms,
                    last_used_timestamp=int(one.stats.last_used.timestamp()) if one.stats.last_used else 0,
                )
                for one in await self._gateway.avatars.figures()
                if one.stats
            ]
        )

    async def load(self, asked: Any, context: Context) -> Any:
        began = time.monotonic()
        avatar = self._avatar(asked.model_id)
        await self._gateway.avatars.load(avatar, asked.preferred_gpu)
        self._gateway.forget_contracts()
        return message("LoadModelResponse")(
            success=True,
            gpu_id=await self._gateway.avatars.gpu_of(avatar),
            load_time_ms=(time.monotonic() - began) * 1000,
        )

    async def unload(self, asked: Any, context: Context) -> Any:
        await self._gateway.avatars.unload(self._avatar(asked.model_id))
        self._gateway.forget_contracts()
        return message("UnloadModelResponse")(success=True)

    async def health(self, asked: Any, context: Context) -> Any:
        ready = self._gateway.ready
        avatars = await self._gateway.avatars.figures() if ready else []
        return message("HealthResponse")(
            healthy=ready,
            loaded_models=sum(one.loaded for one in avatars),
            max_models=self._gateway.avatars.settings.max_models,
        )

    def _avatar(self, model_id: str) -> str:
        if not model_id:
            raise _wrong("model_id is empty: it must be an avatar's id")
        return self._gateway.avatars.id_of(model_id)


def _figures(one: AvatarFigures) -> dict[str, Any]:
    """The fields that ModelInfo and ModelStats share."""
    return {
        "model_id": one.id,
        "loaded": one.loaded,
        "gpu_id": one.gpu,
        "memory_mb": one.memory_mb,
        "request_count": one.stats.requests if one.stats else 0,
    }


def _wrong(sentence: str) -> Refused:
    return invalid(sentence, "monolithic")


def _audio(asked: Any) -> NDArray[np.float32]:
    """The speech of a request at 16 kHz, shape = (n,). Raises Refused for whatever is wrong with the request."""
    count, rate = asked.batch_size, asked.sample_rate or SAMPLE_RATE
    if not 1 <= count <= MAX_FRAMES:
        raise _wrong(f"batch_size is {count}: it must be from 1 to {MAX_FRAMES}")
    if not 0 <= asked.start_frame_idx <= MAX_FRAME:
        raise _wrong(f"start_frame_idx is {asked.start_frame_idx}: it must be from 0 to {MAX_FRAME}")
    if not asked.raw_audio:
        not_taken = "audio_features is not taken: " if asked.audio_features else ""
        raise _wrong(f"{not_taken}raw_audio is missing: send the speech as little-endian float32")
    if len(asked.raw_audio) % 4:
        raise _wrong(f"raw_audio has {len(asked.raw_audio)} bytes: it must be float32, 4 bytes a sample")
    if not RATES[0] <= rate <= RATES[1]:
        raise _wrong(f"sample_rate is {rate}: it must be 0 (for {SAMPLE_RATE}), or from {RATES[0]} to {RATES[1]}")
    longest = (count + EXTRA_FRAMES) * SAMPLES_PER_FRAME + SAMPLES_AFTER  # no frame depends on what comes later
    samples = np.frombuffer(asked.raw_audio, "<f4")[: -(-longest * rate // SAMPLE_RATE)]
    try:
        speech = to_speech(samples, rate)
    except AudioError as error:
        raise _wrong(f"raw_audio: {error}") from None
    whole = (count + EXTRA_FRAMES) * SAMPLES_PER_FRAME
    if len(samples) * SAMPLE_RATE >= whole * rate and len(speech) < whole:  # a resampler may give a few less
        speech = np.pad(speech, (0, whole - len(speech)))
    return speech


def _as_triton(piece: Request, ensemble: str) -> ModelInferRequest:
    return request_of(
        ensemble,
        AUDIO=piece.audio,
        AUDIO_START=np.array([piece.audio_start]),
        AUDIO_END=np.array([piece.audio_end]),
        FIRST_FRAME=np.array([piece.first_frame]),
        FRAME_COUNT=np.array([piece.frame_count], np.int32),
        FOOTAGE_START=np.array([piece.footage_start]),
    )

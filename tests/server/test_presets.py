"""Avatars in INT8 and BF16: as exact in streaming as any other, and their pictures close to FP32's."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lipsync_client import Client
from lipsync_composite.loop import footage_index
from lipsync_server.networks.quantize import speech_features
from lipsync_server.pipeline import SILENCE_AFTER, LocalPipeline
from lipsync_server.repository.model_folders import INT8_ENCODER, SHARED_ENCODER
from speech import real_speech

SPEECH = real_speech()[:32000]
FRAMES = 50


@pytest.fixture(scope="module")
def exact(repository, medium) -> np.ndarray:
    """The demo's mouths of the speech, its networks computed in FP32."""
    features = speech_features(repository, np.concatenate([SPEECH, SILENCE_AFTER]), SHARED_ENCODER)[:FRAMES]
    session = ort.InferenceSession(repository / f"{medium}_lipsync" / "1" / "model.onnx")
    rows = [{"audio_features": features[at : at + 1], "footage_position": np.array([[at]])} for at in range(FRAMES)]
    return np.concatenate([session.run(["mouth"], row)[0] for row in rows]).astype(float)


def in_mask(repository: Path) -> tuple[slice, ...]:
    """Where mouths are compared: beside the mask nothing is computed."""
    x, y, width, height = LocalPipeline(repository).avatar.facts.mask
    return np.s_[:, y : y + height, x : x + width]


@pytest.mark.parametrize("preset", ["turbo", "medium"])
def test_a_preset_is_exact_for_any_cutting_and_keeps_to_38_db(preset, medium, server, client, repository, exact):
    avatar = {"turbo": "demo", "medium": medium}[preset]
    assert client.is_model_ready(INT8_ENCODER)
    local = list(LocalPipeline(repository, avatar).render(SPEECH))
    with Client(server.grpc_url, timeout=60) as caller:
        for chunk in (3, 25):
            served = [frame.jpeg for frame in caller.render(SPEECH, avatar=avatar, first_chunk=1, chunk=chunk)]
            assert served == [frame.jpeg for frame in local]
    square = np.mean(np.square(np.stack([frame.mouth for frame in local]) - exact)[in_mask(repository)])
    assert 10 * np.log10(255**2 / max(square, 1e-9)) >= 38


@pytest.mark.parametrize("preset", ["turbo", "medium"])
def test_without_openvino_a_preset_is_served_by_onnxruntime(preset, medium, repository, exact, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pipeline = LocalPipeline(repository, {"turbo": "demo", "medium": medium}[preset])
    mouths = np.stack([mouth for _, mouth in pipeline.mouths(SPEECH[: 640 * 8])])
    square = np.mean(np.square(mouths[:6] - exact[:6])[in_mask(repository)])
    assert 10 * np.log10(255**2 / max(square, 1e-9)) >= 38


def test_an_int8_avatar_loops_as_composite_does_at_any_position(call, repository):
    facts = LocalPipeline(repository).avatar.facts
    features = np.zeros((1, 32, 16, 16), np.float32)
    for position in (facts.frames + 3, 2**24 + 1, 10**8 + 7, 2**31 - 1):
        there = call("lipsync", audio_features=features, footage_position=[[position]]).mouth
        looped = footage_index(position, facts.frames, facts.loop)
        here = call("lipsync", audio_features=features, footage_position=[[looped]]).mouth
        np.testing.assert_array_equal(there, here)

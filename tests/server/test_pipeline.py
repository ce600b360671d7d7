"""The public contract of `lipsync_ensemble`: what a caller may rely on, through a real server."""

import io
import random
import re
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import infer
from lipsync_composite.loop import footage_index
from lipsync_onnx.cpu import cpu_kind
from lipsync_server import home
from lipsync_server.repository.presets import PRESETS
from lipsync_server.repository.source import AvatarSource, face_crop
from speech import real_speech

AFTER, BEFORE = 7240, 6321


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A real voice, with the silence that a client appends."""
    return np.pad(real_speech(), (0, AFTER))


def chunk(call, speech, first, count):
    """Some frames, sending only the slice that they need."""
    start = max(0, 640 * first - BEFORE)
    stop = 640 * (first + count - 1) + AFTER
    answer = call(AUDIO=speech[start:stop], AUDIO_START=start, AUDIO_END=False, FIRST_FRAME=first, FRAME_COUNT=count)
    assert answer.FRAME_INDEX.tolist() == list(range(first, first + count))
    return dict(zip(answer.FRAME_INDEX.tolist(), answer.JPEG.tolist(), strict=True))


@pytest.fixture(scope="module")
def whole(client, speech):
    """Every frame of the speech, from requests that carry the whole speech."""
    frames: dict[int, bytes] = {}
    for first in range(0, 96, 32):
        count = min(32, 96 - first)
        got = infer(client, "lipsync_ensemble", AUDIO=speech, AUDIO_END=False, FIRST_FRAME=first, FRAME_COUNT=count)
        frames |= dict(zip(got.FRAME_INDEX.tolist(), got.JPEG.tolist(), strict=True))
    return frames


def cut(sizes, total):
    """Consecutive (first, count) pieces of the given sizes, repeated until `total` frames are covered."""
    pieces, first = [], 0
    while first < total:
        count = min(sizes[len(pieces) % len(sizes)], total - first)
        pieces.append((first, count))
        first += count
    return pieces


@pytest.mark.parametrize("sizes", [[1], [2], [3], [7], [25], [32], [4, 8, 16, 25], [1, 32, 5]], ids=str)
def test_chunked_equals_whole(call, speech, whole, sizes):
    pieces = cut(sizes, 24 if sizes == [1] else 70)
    random.Random(str(sizes)).shuffle(pieces)  # out of order
    with ThreadPoolExecutor(4) as callers:  # and concurrently
        for frames in callers.map(lambda piece: chunk(call, speech, *piece), pieces):
            for index, jpeg in frames.items():
                assert jpeg == whole[index], f"frame {index} of chunks {sizes}"


def test_the_mouth_moves_with_the_speech_and_the_pictures_are_whole_frames(whole, demo):
    facts = demo[1].facts
    pictures = [np.asarray(Image.open(io.BytesIO(whole[index]))) for index in (20, 23, 26, 29)]
    assert all(picture.shape == (facts.height, facts.width, 3) for picture in pictures)
    quiet = np.asarray(Image.open(io.BytesIO(whole[20]))).astype(int)
    assert max(np.abs(picture - quiet).max() for picture in pictures[1:]) > 30


def test_defaults_give_every_frame_the_audio_allows_up_to_the_limit(call, speech):
    assert call(AUDIO=speech[:16000]).FRAME_INDEX.tolist() == list(range(25))
    assert call(AUDIO=speech).FRAME_INDEX.tolist() == list(range(32))
    assert call(AUDIO=speech, FIRST_FRAME=170).FRAME_INDEX.tolist() == list(range(170, 189))
    open_ended = call(AUDIO=speech[:16000], AUDIO_END=False).FRAME_INDEX
    assert open_ended.tolist() == list(range((16000 - AFTER) // 640 + 1))


def test_a_single_sample_is_a_speech_of_one_frame(call):
    assert call(AUDIO=[0.1]).FRAME_INDEX.tolist() == [0]


def test_footage_start_moves_the_picture_not_the_mouth(call, speech, demo):
    facts = demo[1].facts
    count = facts.frames if facts.loop == "forward" else max(1, 2 * facts.frames - 2)
    plain = call(AUDIO=speech, FIRST_FRAME=10, FRAME_COUNT=3)
    same = call(AUDIO=speech, FIRST_FRAME=10, FRAME_COUNT=3, FOOTAGE_START=10)
    once_around = call(AUDIO=speech, FIRST_FRAME=10, FRAME_COUNT=3, FOOTAGE_START=10 + count)
    elsewhere = call(AUDIO=speech, FIRST_FRAME=10, FRAME_COUNT=3, FOOTAGE_START=10 + count // 3)
    assert plain.JPEG.tolist() == same.JPEG.tolist() == once_around.JPEG.tolist()
    assert plain.JPEG.tolist() != elsewhere.JPEG.tolist()


def test_timings_add_up(call, speech):
    timings = call(AUDIO=speech, FRAME_COUNT=4).TIMINGS_MS
    assert timings.shape == (4,) and (timings > 0).all()
    assert timings[3] == pytest.approx(timings[:3].sum(), rel=0.01)


def test_graph_and_composite_walk_the_footage_alike(call, demo):
    """The crops in the graph come from the frames on which composite pastes, far beyond the loop's end too."""
    key, avatar = demo
    features = np.zeros((1, 32, 16, 16), np.float32)
    for position in (0, 1, avatar.facts.frames - 1, avatar.facts.frames, 3 * avatar.facts.frames + 7, 2**31 - 1):
        there = call("lipsync", audio_features=features, footage_position=[[position]]).mouth
        looped = footage_index(position, avatar.facts.frames, avatar.facts.loop)
        here = call("lipsync", audio_features=features, footage_position=[[looped]]).mouth
        np.testing.assert_array_equal(there, here)
        got = call("composite", mouth=there, avatar_key=[[key]], footage_position=[[position]]).JPEG[0]
        assert got == avatar.render(looped, here[0])


def test_without_a_mouth_composite_returns_the_plain_footage(call, demo):
    key, avatar = demo
    got = call("composite", avatar_key=[[key]] * 3, footage_position=[[0], [5], [avatar.facts.frames + 2]])
    assert got.JPEG.tolist() == [avatar.footage_jpeg(position) for position in (0, 5, avatar.facts.frames + 2)]


def test_callers_own_visual_frames_give_the_resident_avatars_pictures(call, speech, whole):
    """The avatar's crops, sent by the caller as six channels, give the resident ones' pictures. The bytes may differ: a
    sum that INT8 rounds the other way moves a layer's value by one.
    """
    source = AvatarSource.read(home.AVATARS / "demo")
    x, y, width, height = source.mask
    six = []
    for frame, box, _ in zip(source.frames(), source.read_boxes(), range(5), strict=False):
        crop = face_crop(frame, box).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        masked = crop.copy()
        masked[:, y : y + height, x : x + width] = 0
        six.append(np.concatenate([crop, masked]))
    got = call("lipsync_visual_ensemble", AUDIO=speech, AUDIO_END=False, VISUAL_FRAMES=six)
    for index, jpeg in enumerate(got.JPEG.tolist()):
        one, other = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (jpeg, whole[index]))
        assert 10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-9)) > 60


def test_published_facts_are_those_of_the_avatar(client, demo):
    parameters = client.get_model_config("lipsync").config.parameters
    published = {name: value.string_value for name, value in parameters.items()}
    facts = demo[1].facts
    assert published.pop("preset") in PRESETS
    assert int(published.pop("memory_mb")) > 0
    assert published.pop("trial_cpu") == cpu_kind()
    assert re.fullmatch("[0-9a-f]{12}", published.pop("audio_encoder"))
    assert published == {
        "avatar_id": facts.id,
        "avatar_key": str(demo[0]),
        "frame_width": str(facts.width),
        "frame_height": str(facts.height),
        "footage_frames": str(facts.frames),
        "loop": facts.loop,
    }


def test_stages_agree_on_the_largest_request(client):
    def published(model: str) -> str:
        return client.get_model_config(model).config.parameters["max_frames"].string_value

    assert published("mel_preprocess") == published("composite")
    assert client.get_model_config("lipsync").config.max_batch_size == int(published("composite"))

"""An avatar in INT8: as exact in streaming as any other, and its pictures close to FP32's."""

import shutil

import numpy as np
import pytest
import stages
from avatar_source import AvatarSource
from lipsync_client import Client, Control
from local_pipeline import LocalPipeline
from package_avatar import INT8_ENCODER, package_avatar
from speech import real_speech

SPEECH = real_speech()[:32000]


@pytest.fixture
def quick(repository, server, tmp_path) -> str:
    """The demo packed as `low`, loaded."""
    source = tmp_path / "quick"
    shutil.copytree(stages.ROOT / "avatars" / "demo", source)
    text = (source / "avatar.yaml").read_text().replace("id: demo", "id: quick")
    (source / "avatar.yaml").write_text(text + "\npreset: low\n")
    package_avatar(AvatarSource.read(source), repository)
    with Control(server.grpc_url, key=server.control_key) as control:
        control.load("quick")
    return "quick"


def test_an_int8_avatar_gives_the_same_bytes_however_a_speech_is_cut_and_keeps_to_38_db(
    quick, server, client, repository
):
    assert client.is_model_ready(INT8_ENCODER)
    local = list(LocalPipeline(repository, quick).render(SPEECH))
    with Client(server.grpc_url, timeout=60) as caller:
        for chunk in (3, 25):
            served = [frame.jpeg for frame in caller.render(SPEECH, avatar=quick, first_chunk=1, chunk=chunk)]
            assert served == [frame.jpeg for frame in local]
    exact = LocalPipeline(repository).mouths(SPEECH)
    square = np.mean(
        [np.square(frame.mouth.astype(float) - mouth) for frame, (_, mouth) in zip(local, exact, strict=True)]
    )
    assert 10 * np.log10(255**2 / square) >= 38

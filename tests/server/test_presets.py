"""An avatar in INT8: as exact in streaming as any other, and its pictures close to FP32's."""

import numpy as np
from lipsync_client import Client
from local_pipeline import LocalPipeline
from package_avatar import INT8_ENCODER
from speech import real_speech

SPEECH = real_speech()[:32000]


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

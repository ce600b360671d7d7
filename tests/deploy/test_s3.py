"""A model repository on S3, as the chart's `repository.from: s3`: Triton downloads each model to its own folder."""

from __future__ import annotations

import time

import pytest
from deployment import entry_point, free_ports

from lipsync_client import Client
from lipsync_client.errors import LipsyncError
from speech import real_speech

SPEECH = real_speech()[:16_000]
MODELS = ("mel_preprocess", "audio_encoder", "audio_encoder_int8", "lipsync", "composite", "lipsync_ensemble")
SECONDS = 120


@pytest.mark.timeout(280)
def test_a_repository_on_s3_gives_the_same_frames(server, repository, tmp_path, monkeypatch):
    import boto3  # only `make deploy-check` installs them
    from moto.server import ThreadedMotoServer

    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "downloads"))
    (tmp_path / "downloads").mkdir()
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    storage.start()
    try:
        bucket = boto3.resource("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="models")
        for model in MODELS:
            for path in (repository / model).rglob("*"):
                if path.is_file() and not {"__pycache__", "configs"} & {*path.parts}:
                    bucket.upload_file(str(path), f"repository/{path.relative_to(repository)}")
        with entry_point(f"s3://http://127.0.0.1:{port}/models/repository", tmp_path) as (_, ports):
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    with Client(f"127.0.0.1:{ports['grpc']}", timeout=30) as client:
                        frames = [frame.jpeg for frame in client.render(SPEECH, chunk=8)]
                    break
                except LipsyncError:
                    assert time.monotonic() < deadline, (tmp_path / "triton.log").read_text()[-3000:]
                    time.sleep(1)
    finally:
        storage.stop()
    with Client(server.grpc_url, timeout=60) as client:
        assert frames == [frame.jpeg for frame in client.render(SPEECH, chunk=8)]

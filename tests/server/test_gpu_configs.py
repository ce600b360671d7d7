"""The configs for GPUs in a real server. Without a GPU their FP16 networks run on the CPU."""

import shutil
from itertools import islice

import numpy as np
import pytest
import tritonclient.grpc as grpc

from conftest import infer
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.gpu import write_gpu_models
from lipsync_server.serving import Ports, ServerConfig, TritonServer
from speech import real_speech

SPEECH = real_speech()[:32000]


@pytest.mark.parametrize(("name", "network"), [("cuda", "model_fp16.onnx"), ("tensorrt", "model_tensorrt.onnx")])
def test_a_server_reads_the_gpu_configs_and_its_mouths_keep_to_38_db(repository, tmp_path, name, network):
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns("configs", "lipsync_visual*"))
    write_gpu_models(copy)
    wanted = ("lipsync_ensemble",)
    config = ServerConfig(ports=Ports(0, 0, 0), load=wanted, required=wanted, gpus="none", gpu_configs=name)
    with TritonServer(copy, config) as server, grpc.InferenceServerClient(server.grpc_url) as client:
        used = {model: client.get_model_config(model).config for model in ("lipsync", "composite")}
        assert (used["lipsync"].default_model_filename, used["lipsync"].max_batch_size) == (network, 64)
        assert used["composite"].instance_group[0].count == 4
        accelerators = used["lipsync"].optimization.execution_accelerators.gpu_execution_accelerator
        assert [accelerator.name for accelerator in accelerators] == [name] * (name == "tensorrt")
        assert len(infer(client, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=25).JPEG) == 25
        pipeline = LocalPipeline(repository)
        features = pipeline.features(SPEECH, 0, 8)
        positions = np.arange(8)[:, None]
        got = infer(client, "lipsync", audio_features=features, footage_position=positions)
    expected = np.stack([mouth for _, mouth in islice(pipeline.mouths(SPEECH), 8)])
    x, y, width, height = pipeline.avatar.facts.mask  # beside it, a CPU's network returns the footage
    square = np.square(got.mouth.astype(float) - expected)[:, y : y + height, x : x + width].mean()
    assert 10 * np.log10(255**2 / square) >= 38
    assert got.avatar_key.tolist() == [[pipeline.key]] * 8

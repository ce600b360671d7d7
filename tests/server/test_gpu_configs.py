"""The configs for GPUs in a real server. Without a GPU their FP16 networks run on the CPU."""

import shutil
from itertools import islice

import numpy as np
import tritonclient.grpc as grpc

from conftest import infer
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.gpu import write_gpu_models
from lipsync_server.serving import Ports, ServerConfig, TritonServer
from speech import real_speech

SPEECH = real_speech()[:32000]


def test_a_server_reads_the_gpu_configs_and_its_mouths_keep_to_38_db(repository, tmp_path):
    copy = tmp_path / "repository"
    shutil.copytree(repository / "lipsync", copy / "lipsync", ignore=shutil.ignore_patterns("configs"))
    write_gpu_models(copy)
    config = ServerConfig(
        ports=Ports(0, 0, 0), load=("lipsync",), required=("lipsync",), gpus="none", gpu_configs="tensorrt"
    )
    with TritonServer(copy, config) as server, grpc.InferenceServerClient(server.grpc_url) as client:
        used = client.get_model_config("lipsync").config
        assert used.default_model_filename == "model_fp16.onnx"
        accelerators = used.optimization.execution_accelerators.gpu_execution_accelerator
        assert [accelerator.name for accelerator in accelerators] == ["tensorrt"]
        pipeline = LocalPipeline(repository)
        features = pipeline.features(SPEECH, 0, 8)
        positions = np.arange(8)[:, None]
        got = infer(client, "lipsync", audio_features=features, footage_position=positions)
    expected = np.stack([mouth for _, mouth in islice(pipeline.mouths(SPEECH), 8)])
    x, y, width, height = pipeline.avatar.facts.mask  # beside it, a CPU's network returns the footage
    square = np.square(got.mouth.astype(float) - expected)[:, y : y + height, x : x + width].mean()
    assert 10 * np.log10(255**2 / square) >= 38
    assert got.avatar_key.tolist() == [[pipeline.key]] * 8

"""A wrong GPU set-up says what is missing; nothing falls back to the CPU silently. Fakes stand for libraries."""

import os
import subprocess
import sys

import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from lipsync_onnx import gpu_libraries
from lipsync_onnx.session import open_network, providers
from lipsync_server.serving import ServerConfig, ServingError
from lipsync_server.serving.environment import check_gpu

CONFIG = {"max_batch_size": 8, "input": [{"name": "x", "dims": ["1"]}], "output": [{"name": "y", "dims": ["1"]}]}


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    text = '<ir_version: 8, opset_import: ["" : 17]> network (float[B,1] x) => (float[B,1] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def gpu_build(monkeypatch, tmp_path):
    """onnxruntime-gpu as it lies on a disk, its provider linked to libraries that a test names."""
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    for name in gpu_libraries.FILES.values():
        (capi / name).touch()
    monkeypatch.setattr(ort, "__file__", str(capi.parent / "__init__.py"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*gpu_libraries.FILES, "CPUExecutionProvider"])

    def linked_to(*names):
        listing = "".join(f"\t{name} => not found\n" for name in names)
        answer = subprocess.CompletedProcess([], 0, stdout=listing, stderr="")
        monkeypatch.setattr(gpu_libraries.subprocess, "run", lambda *args, **kwargs: answer)

    return linked_to


def test_a_missing_library_fails_the_load_and_is_named_with_its_remedy(gpu_build, network):
    gpu_build("libcublasLt.so.13", "libcurand.so.10")
    named = r"libcublasLt.so.13, libcurand.so.10, libcudnn.so.9 cannot be loaded: .*CUDA 13"
    with pytest.raises(ValueError, match=named):
        open_network(CONFIG, network, "GPU", 0)
    gpu_build("libnvinfer.so.10", "libcuda.so.1")
    problem = gpu_libraries.problem([gpu_libraries.TENSORRT])
    assert "because libnvinfer.so.10, libcuda.so.1, libcudnn.so.9 cannot be loaded: " in problem
    for remedy in ("`pip install 'tensorrt-cu13<11'`", "NVIDIA's driver 580", "CUDA 13 and cuDNN 9"):
        assert remedy in problem


def test_libraries_of_pip_are_loaded_before_they_are_missed(gpu_build, monkeypatch):
    gpu_build("libcublasLt.so.13")
    loaded = set()
    monkeypatch.setattr(ort, "preload_dlls", lambda: loaded.update(("libcublasLt.so.13", "libcudnn.so.9")))
    monkeypatch.setattr(gpu_libraries, "_loads", loaded.__contains__)
    assert gpu_libraries.problem([gpu_libraries.CUDA]) is None


def test_a_session_that_left_the_gpu_out_is_refused(network, monkeypatch):
    """What ONNX Runtime does with a driver that is too old: it falls back to the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [gpu_libraries.CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(gpu_libraries, "problem", lambda wanted: None)
    session = ort.InferenceSession
    only_cpu = lambda path, options, providers: session(path, options, providers=["CPUExecutionProvider"])  # noqa: E731
    monkeypatch.setattr(ort, "InferenceSession", only_cpu)
    with pytest.raises(ValueError, match=r"left out CUDAExecutionProvider .* driver is too old"):
        open_network(CONFIG, network, "GPU", 0)


def test_the_check_as_a_program_names_what_this_machine_lacks():
    command = [sys.executable, "-m", "lipsync_onnx.gpu_libraries", "cuda"]
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this machine has onnxruntime-gpu")
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert outcome.stdout == (
        "this onnxruntime has no CUDAExecutionProvider: replace the package onnxruntime by onnxruntime-gpu\n"
    )


def settings(**values):
    return ServerConfig.from_dict(values)


def test_settings_that_ask_for_gpus_never_run_on_the_cpu(monkeypatch):
    lacking = subprocess.CompletedProcess([], 0, stdout="libfoo.so is missing\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: lacking)
    with pytest.raises(ServingError, match=r"gpu_configs is tensorrt, but libfoo.so is missing\."):
        check_gpu(settings(gpu_configs="tensorrt"), True, {})
    with pytest.raises(ServingError, match=r"gpus is \[1\], but libfoo.so is missing\."):
        check_gpu(settings(gpus=[1]), True, {})
    with pytest.raises(ServingError, match=r"gpu_configs is cuda, but this machine shows no NVIDIA GPU"):
        check_gpu(settings(gpu_configs="cuda"), False, {})
    with pytest.raises(ServingError, match=r"This machine has an NVIDIA GPU, but libfoo.so is missing\."):
        check_gpu(settings(), True, {})  # its onnxruntime is the one for GPUs
    assert check_gpu(settings(gpus="none", gpu_configs="cuda"), True, {}) is None
    assert check_gpu(settings(), False, {}) is None


def test_a_default_server_on_a_gpu_machine_says_that_the_cpu_serves():
    advice = check_gpu(settings(), True, dict(os.environ))
    assert advice == (
        "The networks run on the CPU, although this machine has an NVIDIA GPU: this "
        "onnxruntime has no CUDAExecutionProvider: replace the package onnxruntime by onnxruntime-gpu."
    )


def test_a_check_that_hangs_or_crashes_is_a_sentence_too(monkeypatch):
    def hangs(command, timeout, **others):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ServingError, match=r"gpu_configs is cuda, but loading its libraries takes more than 25 s\."):
        check_gpu(settings(gpu_configs="cuda"), True, {})
    crashed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nImportError: no onnxruntime\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: crashed)
    with pytest.raises(ServingError, match=r"but ImportError: no onnxruntime\."):
        check_gpu(settings(gpu_configs="cuda"), True, {})


def test_the_arena_of_a_gpu_grows_as_its_config_says():
    stated = {"arena_extend_strategy": {"string_value": "1"}, "gpu_mem_limit": {"string_value": "1024"}}
    name, options = providers({"parameters": stated}, "GPU", 0, [gpu_libraries.CUDA])[0]
    assert (name, options["arena_extend_strategy"]) == (gpu_libraries.CUDA, "kSameAsRequested")

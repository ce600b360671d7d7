"""The libraries that onnxruntime-gpu needs beside itself: loaded before it looks for them, and named where missing.

Without them ONNX Runtime runs everything on the CPU, and says so in no answer. As a program
(`python -m lipsync_onnx.gpu_libraries cuda`, or tensorrt) it prints in one sentence what is missing here, if anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import onnxruntime as ort

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
FILES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
CUDNN = "libcudnn.so.9"  # loaded at the first convolution, so no file names it
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
REMEDIES = {  # what a missing library's name begins with -> what brings it
    "libcuda.so": "install NVIDIA's driver 580 or newer",
    "libnv": "`pip install 'tensorrt-cu13<11'`",
    "": "`pip install 'onnxruntime-gpu[cuda,cudnn]'` brings CUDA 13 and cuDNN 9",
}


def load() -> None:
    """Load CUDA's, cuDNN's and TensorRT's libraries from the packages of pip, where they are installed."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, also where nothing lacks
            ort.preload_dlls()
    spec = importlib.util.find_spec("tensorrt_libs")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for name in TENSORRT_LIBRARIES:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(Path(folder) / name), mode=ctypes.RTLD_GLOBAL)


def missing(provider: str) -> list[str]:
    """The libraries that an execution provider needs and this process cannot load; call `load` first."""
    path = Path(ort.__file__).parent / "capi" / FILES[provider]
    if not path.exists():
        return [path.name]
    listing = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=20, check=False).stdout
    unknown = [line.split()[0] for line in listing.splitlines() if "not found" in line]
    return [name for name in dict.fromkeys([*unknown, CUDNN]) if not _loads(name)]


def problem(providers: Iterable[str]) -> str | None:
    """One sentence that says what these execution providers lack here; None: nothing."""
    available = ort.get_available_providers()
    for provider in providers:
        if provider not in available:
            return f"this onnxruntime has no {provider}: replace the package onnxruntime by onnxruntime-gpu"
    load()
    names = list(dict.fromkeys(name for provider in providers for name in missing(provider)))
    if not names:
        return None
    remedies = dict.fromkeys(next(text for start, text in REMEDIES.items() if name.startswith(start)) for name in names)
    return (
        f"ONNX Runtime cannot use the GPU, because {', '.join(names)} cannot be loaded: {'; '.join(remedies)} "
        "(docs/gpu.md)"
    )


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    found = problem([CUDA, TENSORRT] if sys.argv[1:] == ["tensorrt"] else [CUDA])
    sys.stdout.write(f"{found}\n" if found else "")

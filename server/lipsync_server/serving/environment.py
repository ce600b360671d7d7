"""What the server binary needs around it: the wheel's parts, a backend folder, environment variables."""

from __future__ import annotations

import compileall
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lipsync_client.folders import cache_folder
from lipsync_server import home
from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.leftovers import SHARED_MEMORY
from lipsync_server.serving.server_settings import ServerConfig

GPU_CHECK_S = 25
NO_GPU_BUILD = "this onnxruntime has no"  # as `gpu_libraries.problem` says it
SHARED_A_REQUEST = 20 << 20  # bytes: 32 mouths, given by one stage and taken by the next
SHARED_WANTED = 256 << 20
PYTHONS = ((3, 10), (3, 11), (3, 12))


@dataclass(frozen=True)
class Wheel:
    """The parts of `nvidia-pytriton` that are used: its server binary, libraries and Python backend."""

    binary: Path
    libraries: Path
    python_backend: Path
    stub: Path  # the process that runs a Python model, built for one Python version


def find_wheel() -> Wheel:
    """Locate the wheel in the running environment.

    Raises:
        ServingError: no server exists for this Python, or the wheel is not installed.
    """
    version = python_version()
    if version not in PYTHONS:
        running = ".".join(map(str, version))
        raise ServingError(f"Python {running} cannot run the server: use Python 3.10, 3.11 or 3.12.")
    spec = importlib.util.find_spec("pytriton")  # found, not imported: only its files are wanted
    roots = list(spec.submodule_search_locations or []) if spec else []
    if not roots:
        raise ServingError(
            "The Triton server is not installed: `pip install 'lipsync-triton[server]'` brings nvidia-pytriton "
            f"(Linux x86-64 only; this is {platform.system()} {platform.machine()})."
        )
    root = Path(roots[0])
    server = root / "tritonserver"
    return Wheel(
        binary=server / "bin" / "tritonserver",
        libraries=root.parent / "nvidia_pytriton.libs",
        python_backend=server / "backends" / "python",
        stub=server / "python_backend_stubs" / ".".join(map(str, version)) / "triton_python_backend_stub",
    )


def check_installed() -> None:
    """Refuse an environment that cannot run the server, before work is done for it. Raises ServingError."""
    find_wheel()
    check_numpy()


def shared_memory_trouble(folder: Path = SHARED_MEMORY) -> str | None:
    """A sentence if the shared memory in which Triton hands tensors to its Python stages is small; None if not."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return f"{folder} is missing: Triton's Python stages need shared memory there."
    size = state.f_frsize * state.f_blocks
    if size >= SHARED_WANTED:
        return None
    return (
        f"{folder} has {size >> 20} MiB of shared memory, and each request of 32 frames takes some "
        f"{SHARED_A_REQUEST >> 20} MiB of it while it runs: with many at once, requests fail. Give the container "
        f"{SHARED_WANTED >> 20} MiB or more (docker run --shm-size=1g)."
    )


def python_version() -> tuple[int, int]:
    return sys.version_info[:2]


def numpy_version() -> str | None:
    try:
        import numpy
    except ImportError:
        return None
    return numpy.__version__


def check_numpy() -> None:
    """Refuse numpy 2: the Python backend of Triton 2.51 then hands on empty tensors without an error."""
    found = numpy_version()
    if found is None or int(found.split(".")[0]) >= 2:
        raise ServingError(
            f"numpy is {found or 'missing'}, and the server's Python stages need numpy 1.26: `pip install 'numpy<2'`."
        )


def check_libraries(wheel: Wheel, environment: dict[str, str]) -> None:
    """Refuse to start when the dynamic loader would not find what the stub is linked to."""
    missing = missing_libraries(wheel.stub, environment)
    if not missing:
        return
    package = missing[0].removesuffix(".so.1.0") if missing[0].startswith("libpython") else None
    hint = f"`apt-get install {package}` on Debian or Ubuntu" if package else "install it"
    raise ServingError(f"The system library {missing[0]} is missing, which Triton's Python stages need: {hint}.")


def missing_libraries(program: Path, environment: dict[str, str]) -> list[str]:
    listing = subprocess.run(["ldd", program], env=environment, capture_output=True, text=True, timeout=30, check=False)
    return [line.split()[0] for line in listing.stdout.splitlines() if "not found" in line]


def server_environment(wheel: Wheel, gpus: str | tuple[int, ...]) -> dict[str, str]:
    """Environment variables for the server and its Python stages.

    The stages' interpreter is isolated: it ignores every PYTHON... variable and the user's own site-packages. It finds
    the environment through the first `python3` on PATH, as Python itself does.
    """
    env = dict(os.environ)
    # Each thread of gRPC may get an arena of its own, and keeps what large requests left in it.
    env.setdefault("MALLOC_ARENA_MAX", "2")
    libraries = [wheel.libraries]
    own = Path(sysconfig.get_config_var("LIBDIR") or "")
    if (own / f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0").exists():
        libraries.append(own)  # a Python that brings its own libpython, outside the system's folders
    env["LD_LIBRARY_PATH"] = _joined(libraries, env.get("LD_LIBRARY_PATH"))
    env["PATH"] = _joined([Path(sys.prefix) / "bin"], env.get("PATH"))
    if gpus == "none":
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif gpus != "all":
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return env


def use_gpu(gpus: str | tuple[int, ...]) -> bool:
    """Whether the server can and may use an NVIDIA GPU.

    Raises:
        ServingError: certain GPUs are asked for on a machine without any.
    """
    present = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))  # Linux, and Linux in Windows
    if not present and gpus not in ("all", "none"):
        raise ServingError(f"gpus is {list(gpus)}, but this machine shows no NVIDIA GPU: use `gpus: all` or `none`.")
    return present and gpus != "none"


def check_gpu(config: ServerConfig, with_gpu: bool, variables: Mapping[str, str]) -> str | None:
    """Check what the networks need on GPUs, within 30 s.

    Args:
        config: says whether GPUs are asked for.
        with_gpu: what `use_gpu` says.
        variables: of the server's environment.

    Returns:
        why the networks will not use a GPU that is there; None: they will, or there is none.

    Raises:
        ServingError: the settings ask for GPUs, and the networks would run on the CPU.
    """
    gpus, gpu_configs = config.gpus, config.gpu_configs
    if gpus == "none":
        return None
    if not with_gpu:
        if gpu_configs:
            raise ServingError(
                f"gpu_configs is {gpu_configs}, but this machine shows no NVIDIA GPU: leave it out, or set "
                "`gpus: none` to compute those networks on the CPU."
            )
        return None
    command = [sys.executable, "-m", "lipsync_onnx.gpu_libraries", gpu_configs or "cuda"]
    try:
        outcome = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=GPU_CHECK_S, check=False
        )
        reason = outcome.stdout.strip() or (outcome.stderr.strip().rpartition("\n")[2] if outcome.returncode else "")
    except subprocess.TimeoutExpired:
        reason = f"loading its libraries takes more than {GPU_CHECK_S} s"
    if reason and (gpu_configs or gpus != "all" or not reason.startswith(NO_GPU_BUILD)):
        asked = f"gpus is {list(gpus)}" if gpus != "all" else "This machine has an NVIDIA GPU"
        asked = f"gpu_configs is {gpu_configs}" if gpu_configs else asked
        raise ServingError(f"{asked}, but {reason}.")
    return f"The networks run on the CPU, although this machine has an NVIDIA GPU: {reason}." if reason else None


def _joined(first: list[Path], rest: str | None) -> str:
    return os.pathsep.join([*map(str, first), *([rest] if rest else [])])


def backend_folder(wheel: Wheel) -> Path:
    """Folder for `--backend-directory`: the wheel's Python backend, its stub, and this project's backends.

    Its name is a hash of what is in it, so checkouts and environments do not meet, and servers that start
    at the same time agree.
    """
    parts = {f"python/{path.name}": path for path in wheel.python_backend.iterdir() if path.is_file()}
    parts["python/triton_python_backend_stub"] = wheel.stub
    parts |= {path.parent.name: path.parent for path in home.BACKENDS.glob("*/model.py")}
    listing = "\n".join(f"{name} {source} {_version(source)}" for name, source in sorted(parts.items()))
    folder = cache_folder() / "backends" / hashlib.sha256(listing.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        built = Path(temporary) / "backends"
        (built / "python").mkdir(parents=True)
        for name, source in parts.items():
            if source.is_dir():
                (built / name).symlink_to(source)
            else:  # Triton refuses a link to libtriton_python.so: "escapes backend directory"
                shutil.copy2(source, built / name)
        compileall.compile_dir(built / "python", quiet=2)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another server was first
                raise
    return folder


def _version(source: Path) -> str:
    """Changes when a copied file does; a linked folder has none, being always current."""
    status = source.stat()
    return "" if source.is_dir() else f"{status.st_size} {status.st_mtime_ns}"

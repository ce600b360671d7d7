"""The wheel alone, in a folder with a space and accents, for a user whose HOME is not set: nothing of the checkout.

The new environment holds the wheel. What the wheel depends on is not downloaded again: it comes from the environment
that runs these tests, by a path file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import av
import pytest

from checkout import ROOT

pytestmark = pytest.mark.wheel

PACKAGES = ("lipsync_client", "lipsync_composite", "lipsync_mel", "lipsync_onnx", "lipsync_server", "lipsync_studio")
SHIPPED = {
    "backends/onnxruntime/model.py",
    "model_repository/audio_encoder/config.pbtxt",
    "model_repository/composite/1/model.py",
    "model_repository/composite/config.pbtxt",
    "model_repository/lipsync/config.template.pbtxt",
    "model_repository/lipsync_ensemble/config.pbtxt",
    "model_repository/lipsync_visual/config.pbtxt",
    "model_repository/lipsync_visual_ensemble/config.pbtxt",
    "model_repository/mel_preprocess/1/model.py",
    "model_repository/mel_preprocess/config.pbtxt",
    "samples/speech.wav",
    "server.yaml",
}
BUILT = (  # what users make in a checkout, and nobody else may get
    "avatars/anna/avatar.yaml",
    "avatars/demo/cache/frames.bin",
    "model_repository/anna_lipsync/config.pbtxt",
    "model_repository/lipsync/config.pbtxt",
    "model_repository/lipsync/1/model.onnx",
    "model_repository/composite/configs/cuda.pbtxt",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout in which a user has been at work."""
    folder = tmp_path_factory.mktemp("sources")
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "work", "*.egg-info", "__pycache__", "*.crops", "*.bin")
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=unwanted)
    for name in BUILT:
        path = folder / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("built")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "checkout"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    shutil.rmtree(folder / "checkout")
    return built


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A folder with a new environment, in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel") / "Téléchargements x"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("-packages") and Path(path).is_dir()]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([folder / "venv/bin/python", *install], check=True, timeout=120)
    (folder / "empty").mkdir()
    return folder


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A program of the new environment, in an empty folder and without HOME."""
    variables = {"PATH": os.defpath, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")}
    arguments = [str(folder / "venv/bin" / command[0]), *command[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, cwd=folder / "empty", env=variables, text=True, **pipes)


def run(folder: Path, *command: str) -> tuple[str, str]:
    """What such a program prints; it must succeed."""
    with start(folder, *command) as process:
        try:
            out, problems = process.communicate(timeout=250)
        finally:
            process.kill()
    assert process.returncode == 0, problems
    assert str(ROOT) not in out + problems
    return out, problems


def test_it_carries_the_code_and_the_sources_and_nothing_built(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = {name.removeprefix("lipsync_server/shipped/") for name in names if "/shipped/" in name}
    sources = (path for name in ("audio_encoder", "demo") for path in (ROOT / "avatars" / name).iterdir())
    assert shipped == SHIPPED | {str(path.relative_to(ROOT)) for path in sources if path.is_file()}
    for package in PACKAGES:
        typed = (path for path in ROOT.glob(f"*/**/{package}/py.typed") if not path.is_relative_to(ROOT / "build"))
        (source,) = typed
        code = {f"{package}/{path.relative_to(source.parent)}" for path in source.parent.rglob("*.py")}
        assert code <= names
        assert f"{package}/py.typed" in names
    page = {f"lipsync_client/web/page/{path.name}" for path in (ROOT / "client/lipsync_client/web/page").iterdir()}
    assert page | {"lipsync_mel/filterbank.npy"} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    assert wheel.stat().st_size < 20e6


def test_nothing_of_the_checkout_is_found(folder):
    program = "import {0}; print(*(package.__file__ for package in ({0})), sep='\\n')".format(", ".join(PACKAGES))
    files = run(folder, "python", "-c", program)[0].splitlines()
    assert len(files) == len(PACKAGES)
    assert all(Path(file).is_relative_to(folder) for file in files)
    assert run(folder, "lipsync", "--version")[0].startswith("lipsync ")


def test_the_benchmark_prints_one_json_document_though_it_builds_first(folder):
    out, notes = run(folder, "lipsync", "bench", "--quick", "--parts", "composite", "--json")
    assert "building the demo avatar" in notes
    assert json.loads(out)["results"]["composite"]["all"].keys() == {"1280x720", "3840x2160"}


def test_the_demo_leaves_a_talking_face_and_a_second_build_writes_nothing(folder):
    run(folder, "lipsync", "demo")
    assert [path.name for path in (folder / "empty").iterdir()] == ["demo.mp4"]
    with av.open(str(folder / "empty/demo.mp4")) as video:
        pictures = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    assert len(pictures) == 178  # 113,600 samples, 640 a frame
    assert pictures[0].shape == (720, 1280)
    assert pictures[0].std() > 20

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")}

    before = state()
    assert folder / "data/lipsync/model_repository/lipsync/1/model.onnx" in before
    run(folder, "lipsync", "build")
    assert state() == before


def test_the_page_is_served(folder):
    with start(folder, "lipsync", "web", "--port", "0") as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert b"main.js" in answer.read()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130  # stopped with Ctrl-C

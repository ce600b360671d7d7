"""A real Triton with the shipped models, on a copy of the model repository: no test dirties the checkout."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import np_to_triton_dtype

from lipsync_client import Control
from lipsync_composite.assets import key_name
from lipsync_composite.avatar import PackedAvatar
from lipsync_server import home
from lipsync_server.repository.build import build
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource
from lipsync_server.serving import Ports, ServerConfig, TritonServer
from live_clock import TestClock

FOLDERS = {
    "server": "server",
    "browser": "browser",
    "wheel": "wheel",
    "deploy": "deploy",
}  # of tests, and the markers they set
TYPES = {"AUDIO": np.float32, "AUDIO_END": np.bool_, "FRAME_COUNT": np.int32, "VISUAL_FRAMES": np.float32}

# A shell ignores Ctrl-C for what it starts in the background, and so would every command that a test starts there.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need."""
    for item in items:
        if marker := FOLDERS.get(item.path.parent.name):
            item.add_marker(marker)
        if item.path.parent.name == "browser" or "server" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
        if "torch" in getattr(item.module, "__dict__", {}):
            item.add_marker("torch")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> TestClock:
    """The time of live sessions, moved by the test."""
    clock = TestClock()
    clock.watch(monkeypatch)
    return clock


def built_repository(folder: Path) -> Path:
    """A built model repository in a folder, which a test may change."""
    build(home.repository())
    copy = folder / "model_repository"

    # Copied, not linked: Triton loads a model again when a link to one of its files is made elsewhere.
    shutil.copytree(home.repository(), copy, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
    return copy


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A built model repository of this test run's own."""
    return built_repository(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def server(repository) -> Iterator[TritonServer]:
    with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as running:
        yield running


@pytest.fixture(scope="session")
def client(server) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url) as connected:
        yield connected


def eventually(condition: Callable[[], object], timeout: float = 120) -> None:
    """Wait until a condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def infer(client, model: str, outputs: list[str] | None = None, **inputs) -> Any:
    """One request, by Triton's own client. Arrays are sent as they are, other values in the contract's types.

    Returns:
        the outputs as arrays, by name.
    """
    tensors = []
    for name, value in inputs.items():
        array = value if isinstance(value, np.ndarray) else np.asarray(value, TYPES.get(name, np.int64))
        array = np.atleast_1d(array)
        tensor = grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensors.append(tensor.set_data_from_numpy(array))
    wanted = [grpc.InferRequestedOutput(name) for name in outputs] if outputs else None
    result = client.infer(model, tensors, outputs=wanted, client_timeout=120)
    return SimpleNamespace(**{output.name: result.as_numpy(output.name) for output in result.get_response().outputs})


@pytest.fixture
def call(client) -> Callable[..., Any]:
    """`call(AUDIO=..., FRAME_COUNT=...)`: lipsync_ensemble's JPEG, FRAME_INDEX and TIMINGS_MS."""
    return lambda model="lipsync_ensemble", outputs=None, **inputs: infer(client, model, outputs, **inputs)


@pytest.fixture(scope="session")
def demo(client, repository) -> tuple[int, PackedAvatar]:
    """The served demo avatar: its key and its packed assets."""
    answer = infer(client, "lipsync", audio_features=np.zeros((1, 32, 16, 16), np.float32), footage_position=[[0]])
    key = int(answer.avatar_key[0, 0])
    return key, PackedAvatar.open(repository / "lipsync" / "avatar" / key_name(key))


def packed_demo(server: TritonServer, repository: Path, source: Path, preset: str) -> str:
    """The demo packed with a preset under another id, the name of the folder `source`, and loaded."""
    shutil.copytree(home.AVATARS / "demo", source)
    text = (source / "avatar.yaml").read_text()
    text = text.replace("id: demo", f"id: {source.name}").replace("preset: turbo", f"preset: {preset}")
    (source / "avatar.yaml").write_text(text)
    package_avatar(AvatarSource.read(source), repository)
    with Control(server.grpc_url, key=server.control_key) as control:
        control.load(source.name)
    return source.name


@pytest.fixture(scope="session")
def quick(server, repository, tmp_path_factory) -> str:
    """A second avatar as fast as the demo: its id."""
    return packed_demo(server, repository, tmp_path_factory.mktemp("sources") / "quick", "low")


@pytest.fixture(scope="session")
def medium(server, repository, tmp_path_factory) -> str:
    """The demo with the preset `medium`: its id."""
    return packed_demo(server, repository, tmp_path_factory.mktemp("sources") / "medium", "medium")

"""Whoever lacks an extra is told, in one line, which command installs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT
from lipsync_client.extras import MissingExtra, needs

pytestmark = pytest.mark.slow  # every test starts a process

WITHOUT = """
import runpy, sys
sys.modules[{missing!r}] = None  # as if it were not installed
sys.argv = {command!r}
sys.path.insert(0, {folder!r})
runpy.{run}({target!r}, run_name="__main__")
"""
CLI = "lipsync_client.cli.main"


@pytest.mark.parametrize(
    ("missing", "target", "arguments", "extra"),
    [
        ("onnxruntime", CLI, ["demo"], "lipsync-triton[server]"),
        ("scipy", CLI, ["serve"], "lipsync-triton[server]"),
        ("onnx", CLI, ["build"], "lipsync-triton[server]"),
        ("cv2", CLI, ["avatars", "add", "avatars/demo"], "lipsync-triton[server]"),
        ("prometheus_client", CLI, ["gateway", "--upstream", "127.0.0.1:1"], "lipsync-triton[gateway]"),
        ("websockets", CLI, ["web"], "lipsync-triton[web]"),
        ("torch", CLI, ["avatars", "train", "nothing"], "lipsync-triton[studio]"),
        ("torch", "lipsync_studio.benchmark", ["--help"], "lipsync-triton[studio]"),
        ("onnxruntime", "lipsync_server.reliability", ["--help"], "lipsync-triton[server]"),
        ("pipecat", "examples/pipecat/bot.py", [], "lipsync-triton[pipecat]"),
        ("aiortc", "examples/pipecat/bot.py", [], "pipecat-ai[webrtc,runner,openai]"),
        ("pipecat", "examples/pipecat/to_file.py", ["samples/speech.wav"], "lipsync-triton[pipecat]"),
        ("livekit", "examples/livekit/agent.py", ["start"], "lipsync-triton[livekit]"),
        ("livekit.agents", "examples/livekit/agent.py", ["start"], "lipsync-triton[livekit]"),
    ],
)
def test_a_missing_package_is_one_line_with_its_command(
    missing: str, target: str, arguments: list[str], extra: str
) -> None:
    if (
        missing in ("torch", "aiortc")
        and importlib.util.find_spec("torch" if missing == "torch" else "pipecat") is None
    ):
        pytest.skip("what stands before it is not installed")
    run = "run_path" if target.endswith(".py") else "run_module"
    path = str(ROOT / target) if run == "run_path" else target
    script = WITHOUT.format(
        missing=missing, command=[path, *arguments], folder=str(Path(path).parent), run=run, target=path
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    last = outcome.stderr.strip().splitlines()[-1]  # before it, Pipecat greets
    assert missing in last and "pip install" in last and extra in last


@pytest.mark.parametrize("adapter", ["pipecat", "livekit"])
def test_importing_an_adapter_without_its_framework_says_the_command(adapter: str) -> None:
    script = f"import sys; sys.modules[{adapter!r}] = None; import lipsync_client.agents.{adapter}"
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    last = outcome.stderr.strip().splitlines()[-1]
    assert f"This needs {adapter}" in last and last.endswith(f"pip install 'lipsync-triton[{adapter}]'")


def test_a_module_of_ours_that_is_missing_is_our_fault() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, needs("studio"):
        import lipsync_client.nothing  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(caught.value, MissingExtra)

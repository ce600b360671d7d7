"""The examples in the documentation work as they stand there."""

import re
import subprocess
import sys

from checkout import ROOT
from conftest import infer
from speech import real_speech


def block(page: str, language: str, containing: str) -> str:
    """A page's code block of a language that contains some text."""
    text = (ROOT / page).read_text()
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if containing in text]
    assert len(found) == 1, f"{len(found)} {language} blocks with {containing!r}"
    return found[0]


def test_the_curl_recipe_gives_the_frames_that_grpc_gives(server, client, tmp_path):
    recipe = block("docs/contract.md", "bash", "curl").replace("127.0.0.1:8000", server.http_url)
    recipe = recipe.replace("samples/", f"{ROOT}/samples/")
    subprocess.run(["bash", "-eu", "-c", recipe], cwd=tmp_path, check=True, timeout=120)
    expected = infer(client, "lipsync_ensemble", AUDIO=real_speech()[:32000], FRAME_COUNT=4).JPEG[0]
    assert (tmp_path / "frame0.jpg").read_bytes() == expected


def test_the_python_example_renders(server, tmp_path):
    example = block("README.md", "python", "read_audio").replace("127.0.0.1:8001", server.grpc_url)
    example = example.replace("samples/", f"{ROOT}/samples/")
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True, timeout=120)
    assert len(list(tmp_path.glob("*.jpg"))) == 178

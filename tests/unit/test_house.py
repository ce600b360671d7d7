"""The house stays as it was drawn: who may import whom, how large a file gets, what a wheel carries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkout import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOMS = ("client", "server", "studio", "scripts", "model_repository", "backends", "examples")
MAX_LINES, MAX_FUNCTION = 300, 50
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    if listing.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).exists()]


def sources() -> list[Path]:
    return [path for path in tracked(*(f"{room}/**.py" for room in ROOMS)) if not path.is_symlink()]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_arrows_run_one_way_and_there_is_no_cycle():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-1000:]


def test_no_file_and_no_function_is_too_long():
    found = []
    for path in sources():
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_LINES:
            found.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for node in functions(ast.parse(text)):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            if length > MAX_FUNCTION:
                found.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not found


@pytest.mark.parametrize("trick", ["sys.path", "PYTHONPATH", ".parents["])
def test_nobody_reaches_out_of_his_package(trick):
    assert not [str(path.relative_to(ROOT)) for path in sources() if trick in path.read_text()]


@pytest.mark.parametrize("adapter", ["composite/1/model.py", "mel_preprocess/1/model.py"])
def test_a_stage_needs_no_package_but_its_own(adapter):
    """On a server that is not ours, a stage's process has its own folder on its path, and no more of us."""
    path = ROOT / "model_repository" / adapter
    own = {package.name for package in path.parent.glob("lipsync_*")}
    for source in (path, *path.parent.glob("lipsync_*/*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                assert {name.partition(".")[0] for name in names if name.startswith("lipsync_")} <= own, source


@pytest.mark.parametrize("name", ["SystemExit", "print"])
def test_only_commands_exit_and_print(name):
    """Library code raises its errors, and tells its progress on standard error: standard output is for results."""
    found = []
    for path in sources():
        if "cli" in path.parts or path.name == "__main__.py" or "scripts" in path.parts or "examples" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        commands = {id(inner) for node in functions(tree) if node.name == "main" for inner in ast.walk(node)}
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and node.id == name and id(node) not in commands
        ]
    assert not found


def test_consoles_of_libraries_are_on_standard_error():
    made = [
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in sources()
        if path.relative_to(ROOT) != Path("client/lipsync_client/cli/common.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console")
    ]
    assert made == ["client/lipsync_client/console.py: Console(stderr=True)"]


def test_the_wheel_carries_what_is_tracked_of_models_and_avatars():
    listed = PYPROJECT["tool"]["setuptools"]["package-data"]["lipsync_server"]
    shipped = ROOT / "server" / "lipsync_server"
    carried = {path.resolve() for pattern in listed for path in shipped.glob(pattern)}
    packages = ("lipsync_mel", "lipsync_composite", "lipsync_onnx")
    wanted = {
        path.resolve()
        for path in tracked("model_repository", "backends", "avatars", "samples/speech.wav", "server.yaml")
        if path.name != ".gitkeep" and not any(package in path.parts for package in packages)
    }
    assert carried == wanted


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("lipsync_mel.refusals", ("numpy", "scipy")),
        ("lipsync_mel.timeline", ("scipy",)),
        ("lipsync_composite.loop", ("numpy", "cv2")),
        ("lipsync_composite.geometry", ("numpy", "cv2")),
        ("lipsync_client", ("scipy", "cv2", "onnx", "onnxruntime", "torch", "openvino")),
    ],
)
def test_what_others_import_of_a_stage_brings_nothing_heavy(module, heavy):
    program = f"import sys, {module}; print(*({set(heavy)!r} & sys.modules.keys()))"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert outcome.stdout.split() == []

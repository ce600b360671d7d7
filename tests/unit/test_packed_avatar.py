"""Packed avatars as files and in a repository: what may come in, and that half of one is never there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import onnx
import onnx.parser
import pytest
from google.protobuf import text_format
from test_package_avatar import TOY_ENCODER, bare_repository, write_source
from tritonclient.grpc.model_config_pb2 import ModelConfig

from lipsync_client.avatar_file import install
from lipsync_client.avatar_file.archive import unpack_file
from lipsync_client.avatar_file.install import draft_in, installed, remove
from lipsync_client.avatar_file.names import PackedError, check_id
from lipsync_composite.assets import key_name
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource

pytestmark = pytest.mark.slow  # networks are packed and tried


def pack(folder: Path, repository: Path, to: Path | None = None, **changes: str) -> int:
    return package_avatar(AvatarSource.read(write_source(folder, **changes)), repository, to=to)


@pytest.fixture
def repository(tmp_path) -> Path:
    return bare_repository(tmp_path / "model_repository")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A packed avatar `toy`."""
    folder = tmp_path_factory.mktemp("packed")
    pack(folder / "toy", bare_repository(folder / "model_repository"), folder / "toy.zip")
    return folder / "toy.zip"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(file: Path, repository: Path) -> str:
    with draft_in(repository) as draft:
        avatar = unpack_file(file, draft)
        with installed(draft, avatar, repository):
            return avatar


def test_a_packed_file_brings_the_very_folders_that_packing_in_place_makes(tmp_path, repository, file):
    assert put(file, repository) == "toy"
    from_file = {name: contents(repository / name) for name in ("toy", "toy_lipsync")}
    remove("toy", repository)
    assert not list(repository.glob("toy*")) and not list(repository.glob(".pack-*"))
    pack(tmp_path / "again", repository)
    memory = lambda folder: folder.pop("config.pbtxt")  # noqa: E731 (measured anew)
    for name, expected in from_file.items():
        found = contents(repository / name)
        if name == "toy_lipsync":
            assert b"memory_mb" in memory(found) and b"memory_mb" in memory(expected)
        assert found == expected
    assert (repository / "toy" / "1").is_dir()


def test_a_replacement_that_fails_leaves_all_as_it_was(tmp_path, repository, file):
    put(file, repository)
    before = {name: contents(repository / name) for name in ("toy", "toy_lipsync")}
    pack(tmp_path / "other", repository, tmp_path / "other.zip", jpeg_quality="50")
    with draft_in(repository) as draft:
        avatar = unpack_file(tmp_path / "other.zip", draft)
        with pytest.raises(RuntimeError), installed(draft, avatar, repository):
            assert contents(repository / "toy_lipsync") != before["toy_lipsync"]
            raise RuntimeError("the server could not load it")
    assert {name: contents(repository / name) for name in before} == before
    assert not list(repository.glob(".pack-*"))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replacement_carries_the_footage_that_a_server_still_shows(tmp_path, repository, monkeypatch, exchange):
    if not exchange:  # as on a file system that knows no exchange
        monkeypatch.setattr(install.ctypes, "CDLL", lambda *_, **__: object())
    keys = [pack(tmp_path / q, repository, jpeg_quality=q) for q in ("60", "70", "80")]
    assets = repository / "toy_lipsync" / "avatar"
    assert {path.name for path in assets.iterdir()} == {key_name(key) for key in keys[1:]}


def test_whoever_loads_during_a_replacement_finds_a_whole_folder(tmp_path, repository, monkeypatch):
    """Whatever is renamed or exchanged, in between every folder that is there is complete and of one version."""
    pack(tmp_path / "old", repository)
    seen = []
    exchange = install.exchange_folders

    def watched(one: Path, other: Path) -> None:
        seen.append(_key_in_config_and_files(repository / "toy_lipsync"))
        exchange(one, other)
        seen.append(_key_in_config_and_files(repository / "toy_lipsync"))

    monkeypatch.setattr(install, "exchange_folders", watched)
    pack(tmp_path / "new", repository, jpeg_quality="50")
    assert len(set(seen)) == 2 and all(len(set(pair)) == 1 for pair in seen)


def _key_in_config_and_files(folder: Path) -> tuple[str, str]:
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    (crops,) = folder.glob("*/*.crops")
    return key_name(int(config.parameters["avatar_key"].string_value)), crops.stem


def test_an_avatars_own_encoder_comes_and_goes_with_it(tmp_path, repository):
    folder = write_source(tmp_path / "own", encoder="encoder.onnx")
    onnx.save(onnx.parser.parse_model(TOY_ENCODER), folder / "encoder.onnx")
    package_avatar(AvatarSource.read(folder), repository, to=tmp_path / "own.zip")
    put(tmp_path / "own.zip", repository)
    versions = {path.parent.name for path in repository.glob("toy_*/*/model.onnx")}
    assert len(versions) == 1 and versions != {"1"}  # another encoder, another version
    assert (repository / "toy" / "config.pbtxt").read_text().count(f"model_version: {versions.pop()}") == 2
    pack(tmp_path / "shared", repository)
    assert {path.parent.name for path in repository.glob("toy_*/*/model.onnx")} == {"1"}
    assert not (repository / "toy_audio_encoder").exists()


EVIL = {
    "a path out": {"../evil.txt": b""},
    "an absolute path": {"/tmp/evil.txt": b""},
    "code": {"toy_lipsync/1/model.py": b"print('hello')"},
    "somebody else's folder": {"ben/config.pbtxt": b""},
    "a shared stage": {"composite/config.pbtxt": b""},
    "another backend": {"toy_lipsync/config.pbtxt": b'name: "toy_lipsync" backend: "python"'},
    "another library": {"toy_lipsync/config.pbtxt": b'name: "toy_lipsync" backend: "onnxruntime" runtime: "evil.so"'},
    "operators": {
        "toy_lipsync/config.pbtxt": b'name: "toy_lipsync" backend: "onnxruntime" '
        b'model_operations { op_library_filename: "evil.so" }'
    },
    "another model's step": {
        "toy/config.pbtxt": b'name: "toy" platform: "ensemble" ensemble_scheduling { step { model_name: "ben" } }'
    },
    "another name": {"toy/config.pbtxt": b'name: "ben" platform: "ensemble"'},
    "no config": {"toy/config.pbtxt": b"\xff"},
}


STRANGE = {  # fields added to a config that is good without them
    "an environment to run in": (
        "toy_lipsync",
        'parameters { key: "EXECUTION_ENV_PATH" '
        'value { string_value: "$$TRITON_MODEL_DIRECTORY/avatar/0123456789abcdef/footage.bin" } }',
    ),
    "a parameter of an ensemble": ("toy", 'parameters { key: "preset" value { string_value: "low" } }'),
    "a cache's place": (
        "toy_lipsync",
        "optimization { execution_accelerators { gpu_execution_accelerator: "
        '[ { name: "tensorrt" parameters { key: "trt_engine_cache_path" value: "/etc" } } ] } }',
    ),
    "an accelerator's file": (
        "toy_lipsync",
        "optimization { execution_accelerators { cpu_execution_accelerator: "
        '[ { name: "openvino" parameters { key: "load_config" value: "/etc/passwd" } } ] } }',
    ),
    "a file of labels": ("toy_lipsync", 'output { name: "more" label_filename: "../../../etc/passwd" }'),
    "a file to warm up with": (
        "toy_lipsync",
        'model_warmup { name: "x" inputs { key: "x" value { input_data_file: "../../../etc/passwd" } } }',
    ),
    "another file than model.onnx": ("toy_lipsync", 'default_model_filename: "../../../model.py"'),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_config_with_fields_that_the_packer_does_not_write_is_refused(tmp_path, file, case):
    model, field = STRANGE[case]
    name = f"{model}/config.pbtxt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "evil.zip", "w") as target:
        for known in source.namelist():
            content = source.read(known)
            if known == name:
                config = text_format.Parse(content, ModelConfig())
                if "optimization" in field:  # a config may have only one
                    config.ClearField("optimization")
                content = text_format.MessageToString(config).encode() + field.encode()
            target.writestr(known, content)
    with pytest.raises(
        PackedError, match=rf"evil\.zip: {name} holds '\w+.*', which does not belong to a packed avatar"
    ):
        unpack_file(tmp_path / "evil.zip", tmp_path / "draft")


@pytest.mark.parametrize("case", EVIL)
def test_a_file_that_is_more_than_an_avatar_is_refused_and_changes_nothing(tmp_path, repository, file, case):
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            if name not in EVIL[case]:
                target.writestr(name, source.read(name))
        for name, data in EVIL[case].items():
            target.writestr(name, data)
    there = lambda: sorted(path for path in repository.rglob("*") if path.suffix != ".lock")  # noqa: E731
    before = there()
    with pytest.raises(PackedError, match=r"evil\.zip"):
        put(evil, repository)
    assert there() == before
    assert not Path("/tmp/evil.txt").exists() and not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize(
    "bad", ["demo", "lipsync", "composite", "audio_encoder_int8", "a/b", "..", "x_lipsync", "Anna", ""]
)
def test_an_id_that_is_reserved_or_a_path_is_refused(repository, bad):
    with pytest.raises(PackedError):
        remove(bad, repository)
    with pytest.raises(PackedError, match="cannot be used"):
        check_id(bad)


def test_what_is_no_packed_avatar_is_said_so(tmp_path, repository):
    (tmp_path / "text.zip").write_text("hello")
    for name, says in (("text.zip", "is not a packed avatar"), ("none.zip", "There is no file")):
        with pytest.raises(PackedError, match=says):
            put(tmp_path / name, repository)
    with pytest.raises(PackedError, match="is not the server's model repository"), draft_in(tmp_path):
        pass
    with pytest.raises(PackedError, match="There is no avatar 'nobody'"):
        remove("nobody", repository)


def test_the_files_of_a_replaced_version_cost_no_second_copy(tmp_path, repository):
    old = key_name(pack(tmp_path / "old", repository))
    inode = (repository / "toy_lipsync/avatar" / old / "pixels.bin").stat().st_ino
    pack(tmp_path / "new", repository, jpeg_quality="50")
    assert (repository / "toy_lipsync/avatar" / old / "pixels.bin").stat().st_ino == inode


def test_drafts_of_killed_processes_are_swept_and_living_ones_are_not(repository):
    (repository / ".pack-killed" / "toy_lipsync").mkdir(parents=True)
    with draft_in(repository) as first, draft_in(repository) as second:
        assert set(repository.glob(".pack-*")) == {first, second}


def test_ctrl_c_while_a_folder_is_packed_leaves_nothing(tmp_path, repository):
    command = [
        "-m",
        "lipsync_client.cli.main",
        "avatars",
        "add",
        write_source(tmp_path / "toy"),
        "--repository",
        repository,
    ]
    adding = subprocess.Popen([sys.executable, *map(str, command)], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(repository.glob(".pack-*/*")):
            assert adding.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        adding.send_signal(signal.SIGINT)
        assert adding.communicate(timeout=60)[1].strip() == "Stopped."
    finally:
        adding.kill()
    assert adding.returncode == 130
    assert not [*repository.glob(".pack-*"), *repository.glob("toy*")]

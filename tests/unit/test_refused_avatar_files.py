"""Files that `lipsync avatars add` refuses: each with one sentence and exit status 1, and nothing is left behind."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipsync_client.avatar_file import limits
from lipsync_client.cli.main import app

KEY = "0123456789abcdef"
NETWORK, ENSEMBLE, MODEL = "toy_lipsync/config.pbtxt", "toy/config.pbtxt", "toy_lipsync/1/model.onnx"
CONSTANTS = f"toy_lipsync/1/{KEY}.crops"
FOOTAGE = f"toy_lipsync/avatar/{KEY}/footage.bin"
CONFIGS = {NETWORK: 'name: "toy_lipsync" backend: "onnxruntime"', ENSEMBLE: 'name: "toy" platform: "ensemble"'}
GOOD = {**CONFIGS, MODEL: b"\x08\x01" * 5000, FOOTAGE: bytes(range(256)) * 40}


def packed(files: dict[str, str | bytes], *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """A zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for info, data in more:
            archive.writestr(info, data)
    return content.getvalue()


def with_config(name: str, text: str) -> bytes:
    return packed({**GOOD, name: f"{CONFIGS[name]} {text}"})


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def patched(name: str, offset: int, value: bytes) -> bytes:
    """The good file with other bytes in an entry of its directory; offsets as in the specification of ZIP."""
    data = bytearray(packed(GOOD))
    at = data.rindex(name.encode()) - 46 + offset  # the directory is at the end
    data[at : at + len(value)] = value
    return bytes(data)


def damaged() -> bytes:
    """One byte of stored data is another."""
    stored = zipfile.ZipInfo(MODEL)
    data = packed(CONFIGS, (stored, GOOD[MODEL]))
    return data.replace(b"\x08\x01\x08\x01", b"\x08\x01\x08\x02", 1)


def torn() -> bytes:
    """Compressed data that is none."""
    data = bytearray(packed(GOOD))
    at = data.index(MODEL.encode()) + len(MODEL)
    data[at : at + 20] = b"\xff" * 20
    return bytes(data)


def doubled() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return packed(GOOD, (zipfile.ZipInfo(NETWORK), CONFIGS[NETWORK].encode()))


def many_files() -> bytes:
    return packed({**GOOD, **{f"toy_lipsync/{number}/model.onnx": b"" for number in range(2, 200)}})


def bomb() -> bytes:
    """Within the limit for all files, but far more than footage could compress to."""
    return packed({**GOOD, FOOTAGE: bytes(limits.RATIO_FROM + 1)})


def field(number: int, *parts: str | bytes) -> bytes:
    """A message or string in protobuf's wire format."""
    content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    size, length = len(content), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return (bytes([number << 3 | 2]) if number < 16 else bytes([number << 3 & 0x7F | 0x82, number >> 4])) + (
        length + bytes([size]) + content
    )


def external(location: str, **place: str) -> bytes:
    """A tensor that lies in a file."""
    entries = {"location": location, **place}
    return b"".join(field(13, field(1, key), field(2, value)) for key, value in entries.items())


def with_weights(*tensors: bytes, name: str = MODEL) -> bytes:
    """The good file, with a network whose initializers are these."""
    return packed({**GOOD, name: field(7, *(field(5, tensor) for tensor in tensors)), CONSTANTS: bytes(1000)})


def hidden(tensor: bytes) -> bytes:
    """A network with a tensor in a branch of a branch, in a function, where a constant may be, too."""
    branch = field(1, field(5, field(6, field(1, field(5, field(10, tensor))))))
    return packed({**GOOD, MODEL: field(25, field(7, field(5, field(6, branch))))})


def deep() -> bytes:
    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


WARMUP = 'model_warmup {{ name: "x" {} inputs {{ key: "x" value {{ data_type: TYPE_FP32 {} zero_data: true }} }} }}'
CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is damaged (File is not a zip file)"),
    "no zip": (lambda: b"hello" * 100, "it is damaged (File is not a zip file)"),
    "truncated": (lambda: packed(GOOD)[:-30], "it is damaged (File is not a zip file)"),
    "truncated in front": (lambda: packed(GOOD)[50:], "it is damaged ("),
    "an empty zip": (lambda: packed({}), "it holds nothing"),
    "wrong CRC": (damaged, "it is damaged (Bad CRC-32 for file 'toy_lipsync/1/model.onnx')"),
    "torn data": (torn, "it is damaged ("),
    "encrypted": (lambda: patched(MODEL, 8, b"\x01"), "'toy_lipsync/1/model.onnx' is encrypted"),
    "another method": (lambda: patched(MODEL, 10, b"\x0c"), "is compressed by another method than DEFLATE"),
    "a path out": (lambda: packed({**GOOD, "../evil.txt": b""}), "it holds ['..', 'toy', 'toy_lipsync']"),
    "a path out within": (lambda: packed({**GOOD, "toy/../../evil.txt": b""}), "does not belong to a packed avatar"),
    "an absolute path": (lambda: packed({**GOOD, "/tmp/evil.txt": b""}), "it holds ['', 'toy', 'toy_lipsync']"),
    "a link": (lambda: packed(CONFIGS, (link(MODEL), b"/etc/passwd")), "is a link or a device"),
    "a name twice": (doubled, "'toy_lipsync/config.pbtxt' is there more than once"),
    "many files": (many_files, "holds 202 entries; a packed avatar has at most 100"),
    "a bomb": (bomb, "at most 17179869184 bytes and 100 times its size are allowed"),
    "a stated size": (lambda: patched(FOOTAGE, 24, struct.pack("<I", 0xF0000000)), "would unpack from"),
    "a stated model": (lambda: patched(MODEL, 24, struct.pack("<I", 0xF0000000)), "has 4026531840 bytes; at most"),
    "a huge config": (lambda: with_config(NETWORK, "#" * 70_000), "bytes; at most 65536 are allowed"),
    "no config": (lambda: packed({NETWORK: CONFIGS[NETWORK]}), "toy/config.pbtxt is missing"),
    "a config of bytes": (lambda: packed({**GOOD, ENSEMBLE: b"\xff\xfe"}), "toy/config.pbtxt cannot be read"),
    "a config that is none": (lambda: with_config(ENSEMBLE, "{ hello"), "toy/config.pbtxt cannot be read"),
    "a nested config": (lambda: with_config(ENSEMBLE, "input { " * 5000), "toy/config.pbtxt cannot be read"),
    "instances": (
        lambda: with_config(NETWORK, "instance_group { count: 1000 }"),
        "instance_group.count is 1000; allowed is 0 to 8",
    ),
    "negative instances": (lambda: with_config(NETWORK, "instance_group { count: -1 }"), "instance_group.count is -1"),
    "groups": (lambda: with_config(NETWORK, "instance_group { count: 1 } " * 9), "instance_group has 9 entries"),
    "GPUs": (lambda: with_config(NETWORK, f"instance_group {{ gpus: {[0] * 65} }}"), "more than 64"),
    "a batch": (lambda: with_config(NETWORK, "max_batch_size: 4096"), "max_batch_size is 4096; allowed is 0 to 32"),
    "dims": (lambda: with_config(NETWORK, "input { dims: [ 1, 4611686018427387904 ] }"), "input.dims is 46116860"),
    "dims together": (lambda: with_config(NETWORK, "output { dims: [ 4096, 4096 ] }"), "[4096, 4096] are too large"),
    "dimensions": (lambda: with_config(NETWORK, f"output {{ dims: {[1] * 7} }}"), "has 7 dimensions"),
    "tensors": (lambda: with_config(ENSEMBLE, 'input { name: "x" } ' * 17), "input has 17 entries"),
    "a warm-up's batch": (lambda: with_config(NETWORK, WARMUP.format("batch_size: 99", "")), "batch_size is 99"),
    "a warm-up's dims": (lambda: with_config(NETWORK, WARMUP.format("", "dims: [ 4096, 4096 ]")), "model_warmup: "),
    "a warm-up of any size": (lambda: with_config(NETWORK, WARMUP.format("", "dims: -1")), "dims is -1; allowed is 1"),
    "warm-ups": (lambda: with_config(NETWORK, WARMUP.format("", "dims: 1") * 9), "model_warmup has 9 entries"),
    "weights from elsewhere": (
        lambda: with_weights(external("../../../secret")),
        "toy_lipsync/1/model.onnx takes weights from '../../../secret', which does not belong to a packed avatar",
    ),
    "weights at a path": (lambda: with_weights(external("/etc/passwd")), "takes weights from '/etc/passwd'"),
    "weights in memory": (lambda: with_weights(external("*/_ORT_MEM_ADDR_/*")), "'*/_ORT_MEM_ADDR_/*'"),
    "weights of the encoder": (
        lambda: with_weights(external("model.onnx"), name="toy_lipsync/1/whole.onnx"),
        "toy_lipsync/1/whole.onnx takes weights from 'model.onnx'",
    ),
    "weights at two places": (
        lambda: with_weights(external(f"{KEY}.crops") + external("../x")),
        "toy_lipsync/1/model.onnx is not an ONNX network",
    ),
    "hidden weights": (lambda: hidden(external("../x")), "takes weights from '../x'"),
    "absent weights": (lambda: with_weights(external(f"{'0' * 16}.crops")), f"{'0' * 16}.crops, which is missing"),
    "weights behind the end": (
        lambda: with_weights(external(f"{KEY}.crops", offset="900", length="101")),
        f"takes weights from {KEY}.crops up to byte 1001, but it has 1000",
    ),
    "weights before it": (lambda: with_weights(external(f"{KEY}.crops", offset="-1")), "which are no numbers"),
    "no network": (lambda: packed({**GOOD, MODEL: b"\xff" * 100}), "toy_lipsync/1/model.onnx is not an ONNX network"),
    "an empty network": (lambda: packed({**GOOD, MODEL: b""}), "toy_lipsync/1/model.onnx is empty"),
    "a deep network": (lambda: packed({**GOOD, MODEL: deep()}), "is not an ONNX network"),
    "a fact": (
        lambda: with_config(NETWORK, 'parameters { key: "preset" value { string_value: "\\033[2J" } }'),
        "parameters.preset.string_value is longer than 64 characters, or not made of",
    ),
}  # fmt: skip


@pytest.fixture
def add(tmp_path: Path) -> Callable[[bytes], tuple[int, str, set[Path]]]:
    """`lipsync avatars add` of a file: exit status, output, and what the repository holds then."""
    repository = tmp_path / "model_repository"
    (repository / "composite").mkdir(parents=True)
    (repository / "composite/config.pbtxt").touch()

    def call(content: bytes) -> tuple[int, str, set[Path]]:
        (tmp_path / "toy.zip").write_bytes(content)
        arguments = ["avatars", "add", str(tmp_path / "toy.zip"), "--repository", str(repository)]
        done = CliRunner().invoke(app, [*arguments, "--server", "127.0.0.1:1"])
        left = {path.relative_to(repository) for path in repository.rglob("*") if path.suffix != ".lock"}
        return done.exit_code, done.output, left - {Path("composite"), Path("composite/config.pbtxt")}

    return call


def test_weights_in_the_avatars_own_file_are_taken(add: Callable[[bytes], tuple[int, str, set[Path]]]) -> None:
    code, output, left = add(
        with_weights(external(f"{KEY}.crops", offset="900", length="100"), b"", external(f"{KEY}.crops"))
    )
    assert code == 0, output
    assert Path(CONSTANTS) in left


def test_the_good_file_is_added(add: Callable[[bytes], tuple[int, str, set[Path]]]) -> None:
    code, output, left = add(packed(GOOD))
    assert code == 0, output
    assert {str(path) for path in left} >= set(GOOD)


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_harms_is_refused_in_one_sentence_and_leaves_nothing(
    add: Callable[[bytes], tuple[int, str, set[Path]]], tmp_path: Path, case: str
) -> None:
    make, says = CASES[case]
    code, output, left = add(make())
    assert (code, left) == (1, set())
    assert says in output and output.startswith(str(tmp_path / "toy.zip"))
    assert len(output.splitlines()) == 1 and len(output) < 600
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/tmp/evil.txt").exists()


def test_a_file_for_which_no_room_is_left_is_refused(add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    code, output, left = add(packed(GOOD))
    assert (code, left) == (1, set())
    assert "but only 1000 are free" in output

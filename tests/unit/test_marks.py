"""Pictures and videos say in their metadata that AI made them; readers that are not ours find it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from PIL import Image
from test_client_audio import tone
from test_client_video import frames

from lipsync_client import LipsyncError, VideoError, read_audio, write_video
from lipsync_client.media.credentials import Credentials
from lipsync_client.media.growing import GrowingVideo
from lipsync_composite import mark
from lipsync_composite.assets import write_assets
from lipsync_composite.avatar import PackedAvatar
from lipsync_composite.mark import SEGMENT, SOURCE_TYPE
from lipsync_server.serving.server_settings import ServerConfig

MOUTH = np.random.default_rng(1).integers(0, 256, (320, 320, 3), dtype=np.uint8)
needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="no exiftool (libimage-exiftool-perl)")


def exiftool(path: Path) -> dict[str, str]:
    command = ["exiftool", "-json", "-G1", "-n", "-m", str(path)]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)[0])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatar") / "a"
    frames = np.random.default_rng(0).integers(0, 256, (3, 150, 200, 3), dtype=np.uint8)
    write_assets(
        folder,
        frames,
        [[10, 20, 100]] * 3,
        avatar_id="a",
        loop="forward",
        blend="soft",
        mask=[5, 5, 310, 305],
        quality=75,
    )
    return folder


def test_every_picture_is_the_unmarked_one_and_one_constant_segment(packed: Path) -> None:
    """So the pixels are the same, and the cost is known."""
    marked, plain = PackedAvatar.open(packed), PackedAvatar.open(packed, mark=False)
    for position in range(3):
        for with_mark, without in (
            (marked.footage_jpeg(position), plain.footage_jpeg(position)),
            (marked.render(position, MOUTH), plain.render(position, MOUTH)),
        ):
            assert with_mark == without[:20] + SEGMENT + without[20:]
            pictures = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in (with_mark, without)]
            assert np.array_equal(*pictures)
    assert len(SEGMENT) < 500


@needs_exiftool
@pytest.mark.parametrize("idle", [True, False])
def test_exiftool_reads_the_mark_of_talking_and_idle_pictures(packed: Path, tmp_path: Path, idle: bool) -> None:
    avatar = PackedAvatar.open(packed)
    file = tmp_path / "frame.jpg"
    file.write_bytes(avatar.footage_jpeg(1) if idle else avatar.render(1, MOUTH))
    found = exiftool(file)
    assert found["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
    assert not {name for name in found if "Warning" in name or "Error" in name}


def test_pillow_reads_the_mark(packed: Path) -> None:
    picture = Image.open(io.BytesIO(PackedAvatar.open(packed).footage_jpeg(0)))
    assert SOURCE_TYPE.encode() in picture.info["xmp"]


@pytest.mark.parametrize(("value", "on"), [(None, True), ("", True), ("true", True), ("no", True), ("false", False)])
def test_only_the_word_false_turns_the_mark_off(monkeypatch: pytest.MonkeyPatch, value: str | None, on: bool) -> None:
    monkeypatch.delenv(mark.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(mark.VARIABLE, value)
    assert mark.is_on() is on


def test_a_server_marks_unless_its_settings_say_false() -> None:
    assert ServerConfig().mark_synthetic
    assert not ServerConfig.from_dict({"mark_synthetic": False}).mark_synthetic


def written(path: Path, **options: Any) -> Path:
    write_video(path, frames(5), fps=25, sound=tone(16000, 0.2).astype(np.float32), **options)
    return path


@needs_exiftool
@pytest.mark.parametrize("name", ["a.mp4", "a.m4v", "a.mov"])
def test_exiftool_reads_the_mark_of_videos(tmp_path: Path, name: str) -> None:
    found = exiftool(written(tmp_path / name))
    assert found["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
    assert any(SOURCE_TYPE in str(value) for tag, value in found.items() if tag.endswith(":Comment"))
    assert not {tag for tag in found if "Warning" in tag or "Error" in tag}


@needs_exiftool
@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_exiftool_reads_the_tag_of_matroska(tmp_path: Path, name: str) -> None:
    assert SOURCE_TYPE in exiftool(written(tmp_path / name)).values()


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_ffmpeg_reads_a_marked_video_and_its_tag(tmp_path: Path, name: str) -> None:
    pictures = []
    for marked in (True, False):
        path = written(tmp_path / name, mark=marked)
        with av.open(str(path)) as file:
            assert (SOURCE_TYPE in str(file.metadata)) is marked
            pictures.append([picture.to_ndarray() for picture in file.decode(video=0)])
        assert (SOURCE_TYPE.encode() in path.read_bytes()) is marked
    assert np.array_equal(*map(np.array, pictures))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """A certificate of a test root, of the kind that C2PA asks for."""
    pytest.importorskip("c2pa", reason="needs the extra c2pa")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("root", "leaf"):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
    openssl = partial(subprocess.run, cwd=folder, check=True, capture_output=True, timeout=60)
    subject = ["-subj", "/O=Test/CN=Test"]
    usage = ["-addext", "keyUsage=critical,keyCertSign", "-addext", "basicConstraints=critical,CA:true"]
    openssl(["openssl", "req", "-x509", "-new", "-key", "root.key", "-out", "root.pem", "-days", "9", *subject, *usage])
    (folder / "leaf.ext").write_text(
        "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    openssl(["openssl", "req", "-new", "-key", "leaf.key", "-out", "leaf.csr", *subject])
    issuer = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "9", "-extfile", "leaf.ext"]
    openssl(["openssl", "x509", "-req", "-in", "leaf.csr", "-out", "leaf.pem", *issuer])
    chain = folder / "chain.pem"
    chain.write_bytes((folder / "leaf.pem").read_bytes() + (folder / "root.pem").read_bytes())
    return Credentials(chain, folder / "leaf.key")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_c2pa_validates_a_signed_video_and_reads_its_source(tmp_path: Path, signer: Credentials, name: str) -> None:
    import c2pa

    path = written(tmp_path / name, credentials=signer)
    with c2pa.Reader(path) as reader:
        assert reader.get_validation_state() == "Valid"
        (action,) = next(
            one["data"]["actions"] for one in reader.get_active_manifest()["assertions"] if "actions" in one["label"]
        )
    assert action["digitalSourceType"] == SOURCE_TYPE
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    with av.open(str(path)) as file:
        assert len(list(file.decode(video=0))) == 5
    changed = bytearray(path.read_bytes())
    changed[changed.index(SOURCE_TYPE.encode()) + 9] ^= 1  # the manifest's, or that of the metadata it covers
    path.write_bytes(changed)
    with c2pa.Reader(path) as reader:
        assert reader.get_validation_state() == "Invalid"


@needs_exiftool
def test_a_signed_video_keeps_its_xmp(tmp_path: Path, signer: Credentials) -> None:
    assert exiftool(written(tmp_path / "a.mp4", credentials=signer))["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE


@pytest.mark.parametrize(
    ("name", "marked", "words"),
    [("a.mkv", True, "matroska file cannot be signed"), ("a.mp4", False, "do not leave out")],
)
def test_what_cannot_be_signed_is_refused_before_a_frame(
    tmp_path: Path, signer: Credentials, name: str, marked: bool, words: str
) -> None:
    with pytest.raises(VideoError, match=words):
        write_video(tmp_path / name, iter(()), fps=25, sound=np.zeros(9, np.float32), mark=marked, credentials=signer)


def test_a_wrong_key_is_named(tmp_path: Path, signer: Credentials) -> None:
    (tmp_path / "no.key").write_text("no key")
    for key, words in ((tmp_path / "no.key", "cannot sign"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(LipsyncError, match=words):
            Credentials(signer.certificate, key).check("mp4", True)


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_a_video_that_grows_is_the_finished_one_and_marked(tmp_path: Path, kind: str) -> None:
    sound, pieces = tone(16000, 3).astype(np.float32), []
    with GrowingVideo(kind, fps=25, sound=sound) as video:
        pieces = [*(video.add(frame) for frame in frames(75)), video.finish()]
    assert sum(1 for piece in pieces if piece) > 2 and any(pieces[:60])
    growing, whole = tmp_path / f"growing.{kind}", tmp_path / f"whole.{kind}"
    growing.write_bytes(b"".join(pieces))
    write_video(whole, frames(75), fps=25, sound=sound)
    with av.open(str(growing)) as file:
        assert [round(picture.time * 25) for picture in file.decode(video=0)] == list(range(75))
    sounds = [read_audio(path) for path in (growing, whole)]
    length = min(map(len, sounds))
    assert 2.9 < length / 16000 < 3.1 and np.abs(sounds[0][:length] - sounds[1][:length]).max() < 0.05
    assert SOURCE_TYPE.encode() in b"".join(pieces[:60])
    if kind == "mp4" and shutil.which("exiftool"):
        found = exiftool(growing)
        assert found["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
        assert not {tag for tag in found if "Warning" in tag or "Error" in tag}

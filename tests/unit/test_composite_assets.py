"""Packed avatars: written whole, alike and checked; read with clear errors."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lipsync_composite.assets import key_name, write_assets
from lipsync_composite.avatar import AssetsError, PackedAvatar
from lipsync_composite.loop import footage_index

FILES = ("avatar.json", "footage.bin", "pixels.bin", "index.npy", "cuts.npy")
BOXES = [[10, 20, 100], [12, 20, 101], [40, 44, 100]]
SETTINGS: dict[str, Any] = {"avatar_id": "ann", "loop": "pingpong", "blend": "soft", "mask": [5, 5, 310, 305]}


def frames(count: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 150, 200, 3), dtype=np.uint8))


def pack(folder: Path, pictures: Any = None, boxes: Any = None, **settings: Any) -> Path:
    pictures = frames() if pictures is None else pictures
    write_assets(folder, pictures, BOXES if boxes is None else boxes, **{"quality": 75, **SETTINGS, **settings})
    return folder


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = pack(tmp_path / "one"), pack(tmp_path / "other")
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert sorted(p.name for p in one.iterdir()) == sorted(FILES)


def test_other_users_may_read(tmp_path: Path) -> None:
    """The server may run as another user than the packager."""
    assert pack(tmp_path / "a").stat().st_mode & 0o055 == 0o055


def test_facts_are_kept(tmp_path: Path) -> None:
    facts = PackedAvatar.open(pack(tmp_path / "a")).facts
    assert (facts.id, facts.width, facts.height, facts.frames) == ("ann", 200, 150, 3)
    assert (facts.loop, facts.blend, facts.mask, facts.quality) == ("pingpong", "soft", [5, 5, 310, 305], 75)
    assert facts.box_sizes == [100, 101]


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    pack(tmp_path / "a", avatar_id="old")
    pack(tmp_path / "a", avatar_id="new")
    assert PackedAvatar.open(tmp_path / "a").facts.id == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failure_half_way_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield frames()[0]
        raise OSError("the footage ends here")

    pack(tmp_path / "a", avatar_id="old")
    with pytest.raises(OSError, match="ends here"):
        pack(tmp_path / "a", broken())
    assert PackedAvatar.open(tmp_path / "a").facts.id == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": [*BOXES[:2], [101, 20, 100]]}, "frame 2: box x=101 y=20 size=100 .* 200 x 150"),
        ({"boxes": [[0, -1, 100], *BOXES[1:]]}, "frame 0: box x=0 y=-1"),
        ({"boxes": [[0, 0, 8], *BOXES[1:]]}, "at least 32"),
        ({"boxes": BOXES[:2]}, "2 boxes but more frames"),
        ({"boxes": [*BOXES, BOXES[0]]}, "4 boxes but 3 frames"),
        ({"boxes": []}, "at least one frame"),
        ({"pictures": [*frames(2), np.zeros((150, 201, 3), np.uint8)]}, r"frame 2 is uint8 of shape \(150, 201, 3\)"),
        ({"pictures": [np.zeros((150, 200), np.uint8)] * 3}, r"frame 0 is uint8 of shape \(150, 200\)"),
        ({"pictures": [f.astype(np.float32) for f in frames()]}, "frame 0 is float32"),
        ({"mask": [20, 5, 310, 305]}, r"mask is \[20, 5, 310, 305\]"),
        ({"mask": [5, 5, 310]}, r"mask is \[5, 5, 310\]"),
        ({"mask": [-1, 5, 310, 305]}, "mask is"),
        ({"mask": [5, 5, 310, 10]}, "mask is"),
        ({"loop": "back"}, "loop is 'back'; allowed: forward, pingpong"),
        ({"blend": "hard"}, "blend is 'hard'; allowed: soft, reference"),
        ({"quality": 0}, "quality is 0; allowed: 1 to 100"),
    ],
)
def test_wrong_input_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack(tmp_path / "a", **change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    file = pack(tmp_path / "a") / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(AssetsError, match=rf"{name} is broken"):
        PackedAvatar.open(tmp_path / "a")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_or_empty_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    file = pack(tmp_path / "a") / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AssetsError, match=rf"{name} is (missing|broken)"):
        PackedAvatar.open(tmp_path / "a")


@pytest.mark.parametrize("name", ["index.npy", "cuts.npy"])
def test_a_flipped_bit_in_the_index_is_noticed(tmp_path: Path, name: str) -> None:
    file = pack(tmp_path / "a") / name
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)
    with pytest.raises(AssetsError, match=rf"{name} is broken"):
        PackedAvatar.open(tmp_path / "a")


@pytest.mark.parametrize("change", [{"format": 99}, {"frames": None}])
def test_another_format_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = pack(tmp_path / "a") / "avatar.json"
    facts = {k: v for k, v in {**json.loads(file.read_text()), **change}.items() if v is not None}
    file.write_text(json.dumps(facts))
    with pytest.raises(AssetsError, match=r"avatar\.json (has format 99|is broken)"):
        PackedAvatar.open(tmp_path / "a")


def test_loops() -> None:
    assert [footage_index(p, 4, "forward") for p in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert [footage_index(p, 4, "pingpong") for p in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [footage_index(p, 2, "pingpong") for p in range(5)] == [0, 1, 0, 1, 0]
    assert [footage_index(p, 1, loop) for p in range(3) for loop in ("forward", "pingpong")] == [0] * 6
    assert footage_index(2**62, 7, "pingpong") == 2**62 % 12


def test_frames_follow_the_loop(tmp_path: Path) -> None:
    avatar = PackedAvatar.open(pack(tmp_path / "a"))
    mouth = np.zeros((320, 320, 3), np.uint8)
    plain = [avatar.footage_jpeg(p) for p in range(6)]
    spoken = [avatar.render(p, mouth) for p in range(6)]
    for made in (plain, spoken):
        assert made[3:] == [made[1], made[0], made[1]]
        assert len(set(made)) == 3


def test_an_avatar_that_was_shown_takes_no_memory_for_its_footage(tmp_path: Path) -> None:
    """Neither mapped, where a cut file would end the process, nor read as a whole."""
    pictures = [np.full((600, 800, 3), number, np.uint8) for number in range(40)]
    avatar = PackedAvatar.open(pack(tmp_path / "a", pictures, [[0, 0, 590]] * 40))
    mouth = np.zeros((320, 320, 3), np.uint8)
    avatar.render(0, mouth)
    assert (tmp_path / "a" / "pixels.bin").stat().st_size > 2**25
    tracemalloc.start()
    try:
        for position in range(40):
            avatar.render(position, mouth)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2**20
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_pixels_given_out_are_the_callers_own(tmp_path: Path) -> None:
    avatar = PackedAvatar.open(pack(tmp_path / "a"))
    mouths = np.random.default_rng(2).integers(0, 256, (2, 320, 320, 3), dtype=np.uint8)
    _, first = avatar.composited(0, mouths[0])
    kept = first.copy()
    avatar.composited(0, mouths[1])
    assert np.array_equal(first, kept)


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    avatar = PackedAvatar.open(pack(tmp_path / "a"))
    mouths = np.random.default_rng(2).integers(0, 256, (40, 320, 320, 3), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(avatar.render, range(40), mouths))
    assert together == [avatar.render(k, mouth) for k, mouth in enumerate(mouths)]


def test_keys_have_sixteen_digits_and_a_sign() -> None:
    assert key_name(0) == "0" * 16
    assert key_name(-1) == "f" * 16
    assert key_name(-(2**63)) == "8" + "0" * 15
    assert key_name(0x0123456789ABCDEF) == "0123456789abcdef"

"""Datasets whose pictures and crop boxes are numbered from different numbers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync_server.repository.source import SourceError
from lipsync_studio.prepare.dataset import read_dataset
from lipsync_studio.prepare.inputs import open_input


def dataset(folder: Path, pictures: list[int], boxes: list[int]) -> Path:
    """Box k is at x = k-th position; the pictures have their position as grey level."""
    (folder / "full_body_img").mkdir(parents=True)
    for at, number in enumerate(pictures):
        cv2.imwrite(str(folder / "full_body_img" / f"{number}.png"), np.full((64, 64, 3), at * 10, np.uint8))
    rects = {str(number): [at, 0, at + 32, 32] for at, number in enumerate(boxes)}
    (folder / "crop_rects.json").write_text(json.dumps(rects))
    return folder


@pytest.mark.parametrize(
    ("pictures", "boxes", "by_order"),
    [
        (range(5), range(5), False),
        (range(1, 6), range(1, 6), False),
        (range(1, 6), range(5), True),
        (range(5), range(1, 6), True),
        (range(100, 105), range(5), True),
        (range(1, 6), range(2, 7), True),
        (range(0, 10, 2), range(1, 6), True),
    ],
)
def test_every_picture_has_its_own_box(tmp_path: Path, pictures: range, boxes: range, by_order: bool) -> None:
    folder = dataset(tmp_path / "set", list(pictures), list(boxes))
    data = read_dataset(folder)
    for (x, _, _), picture in zip(data.boxes, data.frames(), strict=True):
        assert picture[0, 0, 0] == x * 10
    findings = open_input(folder).findings()
    assert [("paired by their order" in finding) for finding in findings] == [True] * by_order


def test_different_counts_with_no_common_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no frame has a crop box"):
        read_dataset(dataset(tmp_path / "set", list(range(10, 15)), list(range(4))))

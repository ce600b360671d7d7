"""Lets scripts import the stages' modules, which live in their model folders (one tree to copy to a server)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"

for _stage in ("mel_preprocess", "composite"):
    _folder = str(REPOSITORY / _stage / "1")
    if _folder not in sys.path:
        sys.path.append(_folder)

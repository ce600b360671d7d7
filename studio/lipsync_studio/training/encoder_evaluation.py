"""Measures an audio encoder without an avatar: the mouth that the articulation probe predicts from its features.

    python -m lipsync_studio.training.encoder_evaluation SPEECH.wav .. [--encoder CHECKPOINT.pt]

Every SPEECH has its phonemes beside it, see `evaluation_sounds.py`. Without --encoder it is the shipped one. A
checkpoint of `lipsync_studio.training` has its own probe. It takes seconds, so it compares trainings; the pictures
decide.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from lipsync_mel import mel
from lipsync_studio.corpus.mouth_curves import MOUTH
from lipsync_studio.corpus.speech_data import read_phones, read_wav
from lipsync_studio.evaluation import metrics
from lipsync_studio.evaluation.recording import LIPS_CLOSE, RenderedSpeech
from lipsync_studio.networks import AudioEncoder, load_encoder_checkpoint
from lipsync_studio.training.articulation_probe import ArticulationProbe, load_probe
from lipsync_studio.training.encoder_validation import predict
from lipsync_studio.training.shipped_encoder import read_encoder, read_probe

OPENING, WIDE, ROUND, PRESS = (MOUTH.index(name) for name in ("open", "wide", "round", "press"))
PRESSED = 0.5  # of the press curve
RESTING = 0.1  # a smaller opening is a mouth at rest


class EncoderMetrics(NamedTuple):
    """Of one speech. `nan` where it has nothing of the kind."""

    name: str
    opening: float  # correlation with the phonemes' opening
    lag: float  # frames, positive if the mouth is late
    width: float  # correlation with the phonemes' width
    closures: float  # share of p, b and m with pressed lips
    closures_tried: int  # number of p, b and m
    pauses: float  # share of the frames of pauses at rest
    resting: float  # share of all frames at rest


def measure(curves: NDArray[np.float32], speech: RenderedSpeech) -> EncoderMetrics:
    """Compare curves [frames,7] with a speech's phonemes."""
    true, frames = speech.curves(), len(curves)
    opening, expected = (c[:, OPENING] * (1 - c[:, PRESS]) for c in (curves.astype(float), true.astype(float)))
    width, wanted = (c[:, WIDE] - c[:, ROUND] for c in (curves.astype(float), true.astype(float)))
    spans = metrics.phone_spans(speech.phones, LIPS_CLOSE, frames)
    quiet = np.zeros(frames, bool)
    for first, stop in metrics.phone_spans(speech.phones, {"pau"}, frames):
        quiet[first:stop] = True
    calm = np.concatenate([opening[:0], *(opening[a:b] for a, b in metrics.long_runs(quiet))])
    r, lag, _ = metrics.best_lag(opening, expected) if expected.any() else (np.nan, np.nan, 0.0)
    return EncoderMetrics(
        speech.name,
        r,
        lag,
        float(np.corrcoef(width, wanted)[0, 1]) if wanted.any() else np.nan,
        metrics.share_reached(curves[:, PRESS] > PRESSED, spans),
        len(spans),
        float(np.mean(calm < RESTING)) if len(calm) else np.nan,
        float(np.mean(opening < RESTING)),
    )


def measure_files(
    paths: Sequence[Path], network: AudioEncoder, probe: ArticulationProbe, filterbank: csr_matrix
) -> list[EncoderMetrics]:
    """The metrics of each speech file."""
    found = []
    for path in paths:
        speech = RenderedSpeech(path.stem, read_wav(path), read_phones(path.with_suffix(".json")))
        found.append(measure(predict(network, probe, filterbank, speech.audio), speech))
    return found


def as_markdown(rows: Sequence[EncoderMetrics]) -> str:
    """A table with one line for each speech."""
    text = [
        "| | opening: r, lag | width: r | p, b, m pressed | pauses at rest | all at rest |",
        "|---|---|---|---|---|---|",
    ]
    for m in rows:
        cells = [
            m.name,
            f"{m.opening:.3f}, {m.lag:+.1f}",
            f"{m.width:.2f}",
            f"{100 * m.closures:.0f} % of {m.closures_tried}",
        ]
        cells += [f"{100 * m.pauses:.0f} %", f"{100 * m.resting:.0f} %"]
        text.append("| " + " | ".join("-" if "nan" in cell else cell for cell in cells) + " |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, nargs="+")
    parser.add_argument("--encoder", type=Path, help="a training's checkpoint. [default: the shipped encoder]")
    options = parser.parse_args()
    network = load_encoder_checkpoint(options.encoder) if options.encoder else read_encoder()
    probe = load_probe(options.encoder) if options.encoder else read_probe()
    print(as_markdown(measure_files(options.speech, network, probe, mel.load_filterbank())))


if __name__ == "__main__":
    main()

"""Trains the U-Net of an avatar that prepare_avatar.py made, with the shipped audio encoder; measures it at the end.

    python scripts/train_avatar.py work/anna [--width half] [--samples 60000] [--device cuda]

Run again to go on; Ctrl-C saves first, but for the head start. WORK/sheet_*.png shows moments that are never trained
on: above what the face did, below what it does. To end early, say --samples of what is done. Leaves avatars/anna
complete, and WORK/evaluation/ with the table and pictures of evaluate_avatar.py. Needs the extras `train` and
`evaluate`. The whole way: docs/your-avatar.md.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from numpy.typing import NDArray
from rich.progress import track

from lipsync_mel import mel
from lipsync_mel.timeline import SAMPLES_PER_FRAME
from lipsync_server import home
from lipsync_server.repository.build import build
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource, SourceError
from lipsync_studio.corpus import speech_data
from lipsync_studio.evaluation.evaluate import evaluate
from lipsync_studio.export import export_unet, store_half
from lipsync_studio.networks import WIDTHS, UNet
from lipsync_studio.prepare.training_folder import Clip, read_clips, write_sound
from lipsync_studio.training.coarse_first import coarse_first
from lipsync_studio.training.listen_first import listen_first
from lipsync_studio.training.runs import Stop, console, load_checkpoint
from lipsync_studio.training.shipped_encoder import FOLDER as ENCODER
from lipsync_studio.training.shipped_encoder import read_encoder
from lipsync_studio.training.unet_training import COARSE, LISTENING, train
from lipsync_studio.training.video_source import VideoSource

FACES = {"cpu": 4, "cuda": 16}  # examples in a step
SHOWN = 8  # moments on a sheet
WINDOWS = 512  # heard at once


@torch.no_grad()
def hear(clips: list[Clip], work: Path) -> list[NDArray[np.float16]]:
    """What the encoder WORK/encoder.onnx makes of each clip's sound, [frames + 15, 512]; kept in WORK.

    The first time the shipped encoder is copied there: a network only ever understands the one it was trained with.
    """
    own = work / "encoder.onnx"
    if not own.exists():
        shutil.copyfile(ENCODER / "encoder.onnx", own)
    digest = sha256(own.read_bytes())
    for clip in clips:
        digest.update(clip.sound.tobytes())
    path = work / f"heard-{digest.hexdigest()[:12]}.npz"
    if not path.exists():
        encoder, filterbank, heard = read_encoder(own), mel.load_filterbank(), []
        for clip in track(clips, "listening", console=console, transient=True):
            windows, inside = speech_data.encoder_rows(filterbank, clip.sound)
            rows = torch.cat([encoder(part) for part in torch.from_numpy(windows).split(WINDOWS)])
            heard.append((rows * torch.from_numpy(inside)).numpy().astype(np.float16))
        np.savez(path, *heard)
    with np.load(path) as stored:
        return [stored[f"arr_{i}"] for i in range(len(clips))]


def train_network(
    source: VideoSource, width: str, samples: int, work: Path, device: torch.device, stop: Stop
) -> UNet | None:
    """The U-Net after so many samples; None if it was stopped before.

    Raises:
        SourceError: WORK holds a network of another width.
    """
    network = UNet(width)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = load_checkpoint(work / "unet.pt")
    if state and state["state_dict"]["outc.conv.weight"].shape != network.outc.conv.weight.shape:
        raise SourceError(f"{work / 'unet.pt'} does not have {width} width: say the other one, or remove it")
    if not state:
        listen_first(network.audio_model, source.spoken, LISTENING, stop)
        if not stop:
            coarse_first(network, source, COARSE, stop)
        if stop:
            console.print("This head start is not saved: run again to begin anew")
            return None
    rng = np.random.default_rng(0)
    chosen = (
        source.held_out[np.linspace(0, len(source.held_out) - 1, SHOWN).astype(int)] if len(source.held_out) else []
    )
    shown = [source.example_of(int(frame), rng) for frame in chosen]
    train(network, source, samples, work, stop, faces=FACES[device.type], shown=shown)
    if stop:
        console.print(f"Saved in {work / 'unet.pt'}: run again to go on")
        return None
    return network.eval()


def held_out_sound(clips: list[Clip], source: VideoSource, work: Path) -> list[Path]:
    """The sound of what was not trained on, as a file; none if nothing was held out."""
    if not len(source.held_out):
        return []
    whole = np.concatenate([clip.sound for clip in clips])
    folder = work / "held_out"
    folder.mkdir(exist_ok=True)
    write_sound(folder, whole[int(source.held_out[0]) * SAMPLES_PER_FRAME :])
    return [(folder / "sound.wav").rename(folder / "held_out.wav")]


def measure(avatar: AvatarSource, speech: list[Path], work: Path) -> None:
    """Pack the avatar into a repository of WORK's own, where nobody is served from, and write WORK/evaluation."""
    build()
    repository = work / "model_repository"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(
        home.repository(), repository, ignore=shutil.ignore_patterns("avatar", "*.crops", "__pycache__", ".*")
    )
    package_avatar(avatar, repository)
    evaluate(avatar.id, repository, [*speech, home.SAMPLE], work / "evaluation")


def train_avatar(
    work: Path,
    *,
    width: str = "half",
    samples: int = 60_000,
    hold_out: float = 20.0,
    device: str = "auto",
    avatars: Path = Path("avatars"),
) -> None:
    """See the module.

    Raises:
        SourceError, ValueError: something is missing or does not fit.
    """
    if width not in WIDTHS:
        raise SourceError(f"width is {width!r}: it must be {' or '.join(WIDTHS)}")
    clips = read_clips(work)
    target = avatars / yaml.safe_load((work / "prepared.yaml").read_text(encoding="utf-8"))["id"]
    if not (target / "avatar.yaml").is_file():
        raise SourceError(f"{target / 'avatar.yaml'} is missing: prepare the avatar again, or say --avatars")
    torch.manual_seed(0)
    source = VideoSource(clips, hear(clips, work), hold_out)
    with Stop() as stop:  # in the measuring after it, Ctrl-C means now
        network = train_network(source, width, samples, work, _chosen(device), stop)
    if network is None:
        return
    onnx.save(store_half(export_unet(network.cpu().float())), target / "unet.onnx")
    shutil.copyfile(work / "encoder.onnx", target / "encoder.onnx")
    console.print(f"written: {target / 'unet.onnx'}")
    measure(AvatarSource.read(target), held_out_sound(clips, source, work), work)
    console.print(f"Look at {work / 'evaluation'}. Next: python scripts/package_avatar.py {target}")


def _chosen(device: str) -> torch.device:
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if device not in ("auto", *available):
        raise SourceError(f"device is {device!r}: here it can be auto or {' or '.join(available)}")
    return torch.device(available[-1] if device == "auto" else device)

"""Trains the U-Net of a prepared avatar with the shipped audio encoder, and evaluates it at the end.

    lipsync avatars train work/anna [--quick] [--width full] [--samples 60000] [--device cuda]

The same command continues an interrupted training. Ctrl-C saves first.
WORK/sheet_*.png shows held-out frames: the video above, the network's pictures below. To end early, give --samples the
number that is done. The training completes the folder avatars/anna, and leaves WORK/evaluation/ (docs/evaluation.md).
All steps from a video to a served avatar: docs/your-avatar.md.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.avatar_file.install import draft_in
from lipsync_client.console import notes
from lipsync_mel import mel
from lipsync_mel.timeline import SAMPLES_PER_FRAME
from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.build import build
from lipsync_server.repository.package import plan, write_packed
from lipsync_server.repository.source import AvatarSource, SourceError
from lipsync_studio.corpus.speech_data import encoder_rows
from lipsync_studio.evaluation.evaluate import Evaluation, evaluate
from lipsync_studio.export import export_unet, store_half
from lipsync_studio.networks import WIDTHS, UNet
from lipsync_studio.prepare.training_folder import Clip, read_clips, write_sound
from lipsync_studio.training.audio_branch_pretraining import pretrain_audio_branch
from lipsync_studio.training.low_resolution_pretraining import pretrain_low_resolution
from lipsync_studio.training.runs import Stop, load_checkpoint
from lipsync_studio.training.shipped_encoder import FOLDER as ENCODER
from lipsync_studio.training.shipped_encoder import read_encoder
from lipsync_studio.training.shipped_unet import plain_unet, read_unet
from lipsync_studio.training.stages import LAST_STAGE, PRETRAINING, stages_of
from lipsync_studio.training.unet_training import (
    ANOTHER_FACE,
    AUDIO_PRETRAINING,
    LOW_RESOLUTION_PRETRAINING,
    NEW,
    train,
)
from lipsync_studio.training.video_source import VideoSource

DEMO = home.AVATARS / "demo" / "unet.onnx"
SAMPLES, SAMPLES_FROM_DEMO = 60_000, 20_000
FACES = {"cpu": 4, "cuda": 16}  # examples in a step
SHEET = 8  # frames on a contact sheet
WINDOWS = 512  # encoded at once


@torch.no_grad()
def encode_clips(clips: list[Clip], work: Path) -> list[NDArray[np.float16]]:
    """The audio features of each clip, [frames + 15, 512], stored in WORK.

    The encoder is WORK/encoder.onnx, a copy of the shipped one from the first run: a U-Net works only with the encoder
    that it was trained with.
    """
    own = work / "encoder.onnx"
    if not own.exists():
        shutil.copyfile(ENCODER / "encoder.onnx", own)
    digest = sha256(own.read_bytes())
    for clip in clips:
        digest.update(clip.sound.tobytes())
    path = work / f"features-{digest.hexdigest()[:12]}.npz"
    if not path.exists():
        encoder, filterbank, features = read_encoder(own), mel.load_filterbank(), []
        for clip in track(clips, "encoding the speech", console=notes, transient=True):
            windows, inside = encoder_rows(filterbank, clip.sound)
            rows = torch.cat([encoder(part) for part in torch.split(torch.from_numpy(windows), WINDOWS)])
            features.append((rows * torch.from_numpy(inside)).numpy().astype(np.float16))
        np.savez(path, *features)
    with np.load(path) as stored:
        return [stored[f"arr_{i}"] for i in range(len(clips))]


def begins_with_demo(work: Path, width: str, state: dict[str, Any] | None, scratch: bool) -> bool:
    """Whether a training begins, or began, with the demo's network.

    Args:
        work: its folder.
        width: of its network.
        state: its checkpoint, which then says it.
        scratch: it is to begin with random weights.
    """
    if state:
        return not any("running_mean" in name for name in state["state_dict"])  # see `plain_unet`
    if scratch or width != "half" or (work / PRETRAINING).exists():
        return False
    return (work / "encoder.onnx").read_bytes() == (ENCODER / "encoder.onnx").read_bytes()  # it hears no other


def train_network(
    source: VideoSource,
    width: str,
    samples: int | None,
    work: Path,
    device: torch.device,
    stop: Stop,
    *,
    scratch: bool = False,
) -> UNet | None:
    """Train the U-Net with `samples` samples. Returns it, or None if the training was stopped before.

    A network of half width begins with the demo's: it knows faces, and which mouth belongs to which sound.

    Args:
        scratch: it begins with random weights.

    Raises:
        SourceError: WORK holds a network of another width.
    """
    state = load_checkpoint(work / "unet.pt")
    if state and len(state["state_dict"]["outc.conv.weight"][0]) != WIDTHS[width][0] // 2:
        raise SourceError(f"{work / 'unet.pt'} does not have {width} width: give the other --width, or remove the file")
    from_demo = begins_with_demo(work, width, state, scratch)
    samples = samples or (SAMPLES_FROM_DEMO if from_demo else SAMPLES)
    network = UNet(width)
    if from_demo:
        network = plain_unet(width) if state else read_unet(DEMO)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not state and not from_demo:
        sound, small = stages_of(work, LOW_RESOLUTION_PRETRAINING, samples // FACES[device.type])
        pretrain_audio_branch(network.audio_model, source.spoken, AUDIO_PRETRAINING, stop, sound)
        if not stop:
            pretrain_low_resolution(network, source, LOW_RESOLUTION_PRETRAINING, stop, small)
        if stop:
            notes.print(f"Saved in {sound.path}. The same command continues.")
            return None
    rng = np.random.default_rng(0)
    chosen = (
        source.held_out[np.linspace(0, len(source.held_out) - 1, SHEET).astype(int)] if len(source.held_out) else []
    )
    sheet = [source.example_of(int(frame), rng) for frame in chosen]
    peaks, title = (ANOTHER_FACE, "from the demo's network") if from_demo else (NEW, LAST_STAGE)
    train(network, source, samples, work, stop, faces=FACES[device.type], sheet=sheet, peaks=peaks, title=title)
    (work / PRETRAINING).unlink(missing_ok=True)  # unet.pt holds more
    if stop:
        notes.print(f"Saved in {work / 'unet.pt'}. The same command continues.")
        return None
    return network.eval()


def held_out_sound(clips: list[Clip], source: VideoSource, work: Path) -> list[Path]:
    """The held-out speech as a file; none if nothing was held out."""
    if not len(source.held_out):
        return []
    whole = np.concatenate([clip.sound for clip in clips])
    folder = work / "held_out"
    folder.mkdir(exist_ok=True)
    write_sound(folder, whole[int(source.held_out[0]) * SAMPLES_PER_FRAME :])
    return [(folder / "sound.wav").rename(folder / "held_out.wav")]


def measure(avatar: AvatarSource, speech: list[Path], work: Path) -> Evaluation:
    """Pack the avatar into a draft folder, evaluate it in this process, and write WORK/evaluation."""
    repository = home.repository()
    build(repository)
    with draft_in(repository) as draft:
        write_packed(plan(avatar, repository), draft)
        pipeline = LocalPipeline(repository, avatar.id, packed=draft)
        return evaluate(pipeline, [*speech, home.SAMPLE], work / "evaluation")


def train_avatar(
    work: Path,
    *,
    width: str = "half",
    samples: int | None = None,
    scratch: bool = False,
    hold_out: float = 20.0,
    device: str = "auto",
    avatars: Path = Path("avatars"),
) -> Evaluation | None:
    """Train the avatar that the training folder `work` was prepared for, or continue.

    Args:
        width: of the U-Net, a name of `networks.WIDTHS`.
        samples: training samples in all, each one frame with its speech; by default `SAMPLES`, or `SAMPLES_FROM_DEMO`.
        scratch: begin with random weights also where it could begin with the demo's network.
        hold_out: seconds at the end of the footage that only the evaluation uses.
        device: `cpu`, `cuda` or `auto`.
        avatars: the folder that holds the avatar's source folder.

    Returns:
        how well the avatar speaks; None if the training was stopped before its end.

    Raises:
        SourceError: an option is wrong, `work` was not prepared, or it has too little speech.
    """
    if width not in WIDTHS:
        raise SourceError(f"width is {width!r}: it must be {' or '.join(WIDTHS)}")
    clips = read_clips(work)
    target = avatars / yaml.safe_load((work / "prepared.yaml").read_text(encoding="utf-8"))["id"]
    if not (target / "avatar.yaml").is_file():
        raise SourceError(f"{target / 'avatar.yaml'} is missing: prepare the avatar again, or give --avatars")
    torch.manual_seed(0)
    source = VideoSource(clips, encode_clips(clips, work), hold_out)
    with Stop() as stop:  # during the evaluation after it, Ctrl-C ends the command at once
        network = train_network(source, width, samples, work, _chosen(device), stop, scratch=scratch)
    if network is None:
        return None
    onnx.save(store_half(export_unet(network.cpu().float())), target / "unet.onnx")
    shutil.copyfile(work / "encoder.onnx", target / "encoder.onnx")
    notes.print(f"written: {target / 'unet.onnx'}")
    found = measure(AvatarSource.read(target), held_out_sound(clips, source, work), work)
    notes.print(f"Look at {work / 'evaluation'}. Next: lipsync avatars add {target}")
    return found


def _chosen(device: str) -> torch.device:
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if device not in ("auto", *available):
        raise SourceError(f"device is {device!r}: on this machine it must be auto or {' or '.join(available)}")
    return torch.device(available[-1] if device == "auto" else device)

"""Reads a SyncTalk_2D network file (.pth, .onnx) as plain ONNX. For a wrong file the error says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from onnx import TensorProto

from lipsync_server.repository.source import SourceError

CHECKPOINTS, EXPORTS = (".pth", ".pt", ".ckpt"), (".onnx",)
SUPPORTED = "ave"
AUDIO_MODES = {(32, 16, 16): "ave", (32, 32, 32): "hubert", (256, 16, 32): "wenet"}  # shape of the U-Net's audio input
OLDEST_OPSET, OPSET = 13, 17  # what surrounds the networks needs 13
TOLERANCE = 1e-4


def read_unet(path: Path, audio_mode: str = SUPPORTED) -> onnx.ModelProto:
    """The plain U-Net: `input` [N,6,320,320], `audio` [N,32,16,16] -> `output` [N,3,320,320].

    Args:
        audio_mode: the kind of audio features that the network was trained with. A checkpoint's content does not show
            whether it is `hubert` or `ave`.

    Raises:
        SourceError: the file is something else; the message says what it seems to be.
    """
    if audio_mode != SUPPORTED:
        raise SourceError(
            f"audio mode {audio_mode}: only `{SUPPORTED}` can be served (mel windows through an audio encoder)"
        )
    if _kind(path) == "checkpoint":
        from lipsync_studio.export import export_unet
        from lipsync_studio.networks import CheckpointError, load_unet_checkpoint

        try:
            return export_unet(load_unet_checkpoint(path))
        except CheckpointError as error:
            raise SourceError(_explained(path, str(error), for_encoder=False)) from None
    model = _read_export(path)
    pictures, audio = _by_shape(path, model, {"pictures": (6, None, None), "audio": (None, None, None)})
    size, features = _shape(pictures)[1:], _shape(audio)
    if size != (320, 320):
        raise SourceError(
            f"{path}: its pictures are {size[0]} x {size[1]}; only the 320 network (crop 328) can be served"
        )
    if features != (32, 16, 16):
        mode = next((mode for shape, mode in AUDIO_MODES.items() if shape == features), None)
        named = f"that is audio mode {mode}" if mode else "that is no mode of SyncTalk_2D"
        raise SourceError(
            f"{path}: its audio input is {list(features)}, {named}; only `ave`, [32, 16, 16], can be served"
        )
    if len(model.graph.output) != 1 or _shape(model.graph.output[0])[:1] != (3,):
        raise SourceError(f"{path}: must have one output, [N,3,320,320]; it has {_listed(model.graph.output)}")
    names = {pictures.name: "input", audio.name: "audio", model.graph.output[0].name: "output"}
    return _checked(path, _with_free_batch(_renamed(model, names)), unit_range=True)


def read_encoder(path: Path) -> onnx.ModelProto:
    """The plain audio encoder: `mel` [N,1,80,16] -> `features` [N,512].

    Raises:
        SourceError: the file is something else.
    """
    if _kind(path) == "checkpoint":
        from lipsync_studio.export import export_encoder
        from lipsync_studio.networks import CheckpointError, load_encoder_checkpoint

        try:
            return export_encoder(load_encoder_checkpoint(path))
        except CheckpointError as error:
            raise SourceError(_explained(path, str(error), for_encoder=True)) from None
    model = _read_export(path)
    (windows,) = _by_shape(path, model, {"mel": (1, 80, 16)})
    if len(model.graph.output) != 1 or _shape(model.graph.output[0]) != (512,):
        raise SourceError(f"{path}: must have one output, [N,512]; it has {_listed(model.graph.output)}")
    names = {windows.name: "mel", model.graph.output[0].name: "features"}
    return _checked(path, _with_free_batch(_renamed(model, names)))


def _kind(path: Path) -> str:
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    if path.suffix.lower() in CHECKPOINTS:
        return "checkpoint"
    if path.suffix.lower() in EXPORTS:
        return "export"
    raise SourceError(f"{path}: give a checkpoint ({', '.join(CHECKPOINTS)}) or an export ({', '.join(EXPORTS)})")


def _explained(path: Path, error: str, for_encoder: bool) -> str:
    """The kind of a checkpoint that failed to load, if its keys show it; else the error."""
    from lipsync_studio.networks import CheckpointError, read_state

    try:
        state = read_state(path)
    except CheckpointError:
        return error
    keys = set(state)
    audio = state.get("audio_model.conv1.conv.0.weight")
    if any(key.startswith(("face_encoder", "audio_encoder_blocks")) for key in keys):
        return f"{path} is the sync network, which only training uses: give the U-Net's checkpoint"
    if not for_encoder and any(key.startswith("audio_encoder.") or ".conv_block." in key for key in keys):
        return f"{path} is an audio encoder: give it with --encoder, and the U-Net's checkpoint first"
    if "inc.inconv.0.conv.0.weight" not in keys:
        return error
    if for_encoder:
        return f"{path} is a U-Net: --encoder must be the audio encoder's checkpoint"
    if audio is not None and audio.shape[1] == 256:
        return f"{path} was trained with audio mode wenet; only `{SUPPORTED}` can be served"
    if not any(key.startswith("down5.") for key in keys):
        return f"{path} is the 160-pixel U-Net; only the 320-pixel one (crop 328) can be served: train that one"
    return error


def _read_export(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:
        raise SourceError(f"{path}: not a readable ONNX file ({str(error).splitlines()[0]})") from None
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise SourceError(f"{path}: uses operators of {', '.join(foreign)}; export plain ONNX")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    return model


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Dimensions without the batch; None where free."""
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)[1:]


def _listed(values: Iterable[onnx.ValueInfoProto]) -> str:
    return ", ".join(f"{value.name} {['N', *_shape(value)]}" for value in values)


def _by_shape(
    path: Path, model: onnx.ModelProto, wanted: dict[str, tuple[int | None, ...]]
) -> list[onnx.ValueInfoProto]:
    """The inputs in the wanted order, found by their shapes, because exports name them differently."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    rest, found = list(inputs), []
    for shape in wanted.values():
        fitting = [
            v
            for v in rest
            if len(_shape(v)) == len(shape) and all(b in (a, None) for a, b in zip(_shape(v), shape, strict=True))
        ]
        if fitting:
            found.append(fitting[0])
            rest.remove(fitting[0])
    if rest or len(found) != len(wanted):
        needed = ", ".join(f"{name} {['N', *('any' if d is None else d for d in s)]}" for name, s in wanted.items())
        raise SourceError(f"{path}: has the inputs {_listed(inputs)}; it must have {needed}")
    wrong = [v.name for v in found if v.type.tensor_type.elem_type != TensorProto.FLOAT]
    if wrong:
        raise SourceError(f"{path}: {', '.join(wrong)} must be FP32: export without half precision")
    return found


def _renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """A copy with other names of inputs and outputs. Inner tensors that have one of the new names are renamed too."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {old: new for old, new in names.items() if old != new}
    taken = {new: f"{new}_inner" for new in names.values()} | names
    for node in result.graph.node:
        node.input[:] = [taken.get(name, name) for name in node.input]
        node.output[:] = [taken.get(name, name) for name in node.output]
    for value in (*result.graph.input, *result.graph.output):
        value.name = taken.get(value.name, value.name)
    for tensor in result.graph.initializer:
        tensor.name = taken.get(tensor.name, tensor.name)
    del result.graph.value_info[:]
    return result


def _with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a dynamic batch, in place. Exports often fix it at one; these networks do not depend on it."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    return model


def _checked(path: Path, model: onnx.ModelProto, unit_range: bool = False) -> onnx.ModelProto:
    """The model, after a run of it: frames of a batch must not depend on each other, pictures must be in 0..1."""
    rng = np.random.default_rng(0)
    shapes = {value.name: [int(d or 0) for d in _shape(value)] for value in model.graph.input}
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        inputs = {v.name: rng.random((2, *shapes[v.name]), np.float32) for v in session.get_inputs()}
        both = session.run(None, inputs)[0]
        single = np.concatenate([session.run(None, {k: v[i : i + 1] for k, v in inputs.items()})[0] for i in (0, 1)])
    except Exception as error:
        raise SourceError(
            f"{path}: fails on a batch of two frames: export it with a dynamic batch ({str(error).splitlines()[0]})"
        ) from None
    if np.abs(both - single).max() > TOLERANCE:
        raise SourceError(f"{path}: frames of one batch change each other: export it in evaluation mode")
    if unit_range and not (both.min() >= 0 and both.max() <= 1):
        raise SourceError(f"{path}: gives values from {both.min():.3g} to {both.max():.3g}; pictures must be in 0..1")
    return model

"""Exports a network's checkpoint as plain ONNX with a dynamic batch.

    python -m lipsync_studio.export encoder CHECKPOINT OUT.onnx [--half-storage]
    python -m lipsync_studio.export unet CHECKPOINT OUT.onnx [--half-storage]

    encoder: mel [N,1,80,16] -> features [N,512]
    unet:    input [N,6,320,320], audio [N,32,16,16] -> output [N,3,320,320]

Batch norm is folded into the convolutions. With --half-storage the weights are stored as FP16, each followed by a Cast:
the file has half the size, and the arithmetic stays FP32 (a runtime folds the casts when it loads the model).
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lipsync_studio.networks import AudioEncoder, UNet, load_encoder_checkpoint, load_unet_checkpoint

OPSET = 17  # read by every ONNX Runtime that this project serves on
IR_VERSION = 9
SMALLEST_CAST = 256  # values; smaller tensors stay FP32


def _export(network: torch.nn.Module, inputs: dict[str, torch.Tensor], output: str) -> onnx.ModelProto:
    """Trace the network with the legacy exporter, whose graph is plain and which folds batch norms while it traces."""
    names = list(inputs)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            path,
            input_names=names,
            output_names=[output],
            dynamic_axes={name: {0: "N"} for name in [*names, output]},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def export_encoder(network: AudioEncoder) -> onnx.ModelProto:
    """The plain audio encoder: `mel` [N,1,80,16] -> `features` [N,512]."""
    return _export(network, {"mel": torch.zeros(2, 1, 80, 16)}, "features")


def export_unet(network: UNet) -> onnx.ModelProto:
    """The plain U-Net: `input` [N,6,320,320], `audio` [N,32,16,16] -> `output` [N,3,320,320]."""
    return _export(network, {"input": torch.zeros(2, 6, 320, 320), "audio": torch.zeros(2, 32, 16, 16)}, "output")


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with its larger weights stored as FP16, each followed by a Cast to FP32.

    Raises:
        ValueError: a weight is too large for FP16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts, kept = [], []
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALLEST_CAST:
            kept.append(tensor)
            continue
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.isfinite(halved).all():
            raise ValueError(f"weight {tensor.name} reaches {np.abs(values).max():.3g}: too large for FP16")
        kept.append(numpy_helper.from_array(halved, f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *result.graph.node]
    del result.graph.initializer[:], result.graph.node[:]
    result.graph.initializer.extend(kept)
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("encoder", "unet"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--half-storage", action="store_true")
    options = parser.parse_args()
    if options.network == "encoder":
        model = export_encoder(load_encoder_checkpoint(options.checkpoint))
    else:
        model = export_unet(load_unet_checkpoint(options.checkpoint))
    if options.half_storage:
        model = store_half(model)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""Exported networks compute what PyTorch computes, at any batch size, in graphs that every runtime used here reads."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs the extra studio")
onnxruntime = pytest.importorskip("onnxruntime")

from lipsync_studio.export import export_encoder, export_unet, store_half  # noqa: E402
from lipsync_studio.networks import AudioEncoder, UNet  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def realistic(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights, with BatchNorm statistics as training leaves them: means off zero, variances off one."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(size, generator=generator) * 2 + 0.2)
            module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.2)
    return network.eval()


def run(model, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(2)
    return realistic(AudioEncoder())


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(3)
    return realistic(UNet("half"))


def unet_inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {
        "input": torch.rand(batch, 6, 320, 320, generator=generator),
        "audio": torch.rand(batch, 32, 16, 16, generator=generator) * 3,
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_exported_encoder_equals_pytorch(encoder, batch):
    mel = torch.rand(batch, 1, 80, 16, generator=torch.Generator().manual_seed(batch)) * 8 - 4
    with torch.no_grad():
        expected = encoder(mel).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(run(export_encoder(encoder), {"mel": mel}), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("width", ["half", "full"])
def test_exported_unet_equals_pytorch(width):
    torch.manual_seed(4)
    network = realistic(UNet(width))
    model = export_unet(network)
    for batch in (1, 3):
        inputs = unet_inputs(batch)
        with torch.no_grad():
            expected = network(*inputs.values()).numpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(run(model, inputs), expected, atol=1e-4, rtol=0)


def test_names_and_dynamic_batch_are_the_packagers(encoder, unet):
    def dims(values):
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    graph = export_encoder(encoder).graph
    assert dims(graph.input) == {"mel": ["N", 1, 80, 16]}
    assert dims(graph.output) == {"features": ["N", 512]}
    graph = export_unet(unet).graph
    assert dims(graph.input) == {"input": ["N", 6, 320, 320], "audio": ["N", 32, 16, 16]}
    assert dims(graph.output) == {"output": ["N", 3, 320, 320]}


def test_batch_norms_are_folded(encoder, unet):
    for model in (export_encoder(encoder), export_unet(unet)):
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_graphs_are_old_enough_for_every_runtime(encoder):
    model = export_encoder(encoder)
    assert model.ir_version <= 9
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]


def test_half_storage_halves_the_file_and_keeps_the_picture(unet):
    whole = export_unet(unet)
    half = store_half(whole)
    assert len(half.SerializeToString()) < 0.55 * len(whole.SerializeToString())
    inputs = unet_inputs(1)
    np.testing.assert_allclose(run(half, inputs), run(whole, inputs), atol=2 / 255)


def test_half_storage_refuses_weights_that_it_cannot_hold(encoder):
    model = export_encoder(encoder)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = np.full(len(weight.raw_data) // 4, 1e6, np.float32).tobytes()
    with pytest.raises(ValueError, match=r"reaches 1e\+06: too large for FP16"):
        store_half(model)

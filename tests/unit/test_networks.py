"""The networks are SyncTalk_2D's: its checkpoints load strictly, and a wrong file is refused in one clear sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the networks' definition needs the extra studio")

from lipsync_studio.networks import (  # noqa: E402
    AudioEncoder,
    CheckpointError,
    UNet,
    load_encoder_checkpoint,
    load_unet_checkpoint,
)

KEYS = Path(__file__).parents[1] / "data" / "checkpoint_keys.tsv"


def published_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a published checkpoint, from the list in tests/data."""
    rows = [line.split("\t") for line in KEYS.read_text().splitlines() if not line.startswith("#")]
    return {
        key: () if shape == "scalar" else tuple(int(n) for n in shape.split("x"))
        for name, key, shape in rows
        if name == model
    }


def checkpoint_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random tensors of these shapes; counters are integers, variances positive."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.zeros((), dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator) * 0.1
        for key, shape in shapes.items()
    }


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts():
    assert parameters(AudioEncoder()) == 2_812_672
    assert parameters(UNet("full")) == 12_186_935
    assert parameters(UNet("half")) == 3_095_471


def test_unet_loads_a_published_checkpoint_strictly(tmp_path):
    state = checkpoint_of(published_shapes("unet"))
    torch.save(state, tmp_path / "unet.pth")
    loaded = load_unet_checkpoint(tmp_path / "unet.pth").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("prefix", ["audio_encoder.", ""], ids=["own keys", "published keys"])
def test_encoder_loads_a_published_checkpoint_strictly(tmp_path, prefix):
    state = checkpoint_of(published_shapes("audio_encoder"))
    torch.save({key.replace("audio_encoder.", prefix, 1): v for key, v in state.items()}, tmp_path / "encoder.pth")
    loaded = load_encoder_checkpoint(tmp_path / "encoder.pth").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_width_is_read_from_the_checkpoint(tmp_path):
    torch.save(UNet("half").half().state_dict(), tmp_path / "half.pth")
    network = load_unet_checkpoint(tmp_path / "half.pth")
    assert network.widths == (16, 32, 64, 128, 256)
    assert not network.training
    assert next(network.parameters()).dtype == torch.float32


def test_another_networks_checkpoint_says_which_keys_are_wrong(tmp_path):
    torch.save(AudioEncoder().state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(
        CheckpointError, match=r"encoder\.pth: not a checkpoint of UNet: keys missing: .* unexpected: 91 "
    ):
        load_unet_checkpoint(tmp_path / "encoder.pth")
    torch.save(UNet("half").state_dict(), tmp_path / "unet.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of AudioEncoder: keys missing: 91 "):
        load_encoder_checkpoint(tmp_path / "unet.pth")


def test_wrong_shapes_and_missing_keys_are_named(tmp_path):
    state = UNet("half").state_dict()
    state["outc.conv.weight"] = torch.zeros(3, 9, 1, 1)
    del state["outc.conv.bias"]
    torch.save(state, tmp_path / "unet.pth")
    with pytest.raises(CheckpointError) as refused:
        load_unet_checkpoint(tmp_path / "unet.pth")
    assert "missing: 1 (outc.conv.bias)" in str(refused.value)
    assert "of another shape: 1 (outc.conv.weight)" in str(refused.value)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"note\.txt: not a PyTorch checkpoint"):
        load_unet_checkpoint(tmp_path / "note.txt")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_encoder_checkpoint(tmp_path / "list.pth")


def test_shapes_and_ranges_of_the_outputs():
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        features = AudioEncoder().eval()(torch.rand(3, 1, 80, 16, generator=generator) * 8 - 4)
        picture = UNet("half").eval()(torch.rand(2, 6, 320, 320, generator=generator), torch.rand(2, 32, 16, 16))
    assert features.shape == (3, 512) and features.min() >= 0
    assert picture.shape == (2, 3, 320, 320) and picture.min() >= 0 and picture.max() <= 1

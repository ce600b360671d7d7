"""The served graphs compute what PyTorch computes with the same weights, in full and half width."""

import shutil
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc

from conftest import infer
from lipsync_server import home
from lipsync_server.networks.constants import with_constants
from lipsync_server.networks.graphs import served_encoder
from lipsync_server.networks.unet_graphs import Resident, served_unet
from lipsync_server.serving import Ports, ServerConfig, TritonServer

torch = pytest.importorskip("torch", reason="PyTorch, the reference here, comes with the `train` extra")
from lipsync_studio.export import export_encoder, export_unet  # noqa: E402
from lipsync_studio.networks import AudioEncoder, UNet  # noqa: E402

MASK = (5, 5, 310, 305)


def settled(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights with BatchNorm statistics of a trained network's kind: not the identity."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.2)
    return network.eval()


@pytest.fixture(scope="module")
def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(5)
    return {"audio_encoder": settled(AudioEncoder()), "half": settled(UNet("half")), "full": settled(UNet("full"))}


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (7, 320, 320, 3), np.uint8)


@pytest.fixture(scope="module")
def client(tmp_path_factory, networks, crops) -> Iterator[grpc.InferenceServerClient]:
    """A server of these networks alone: `audio_encoder`, and `half` and `full` from lipsync's config."""
    repository = tmp_path_factory.mktemp("networks") / "model_repository"
    models = {"audio_encoder": served_encoder(export_encoder(networks["audio_encoder"]))}
    for name, loop in (("half", "forward"), ("full", "pingpong")):
        whole = served_unet(export_unet(networks[name]), Resident(len(crops), MASK, loop, key=77))
        models[name] = with_constants(whole, crops=np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
    for name, model in models.items():
        (repository / name / "1").mkdir(parents=True)
        onnx.save(model, repository / name / "1" / "model.onnx")
    shutil.copy(home.repository() / "audio_encoder" / "config.pbtxt", repository / "audio_encoder")
    lipsync = (home.repository() / "lipsync" / "config.template.pbtxt").read_text()
    for name in ("half", "full"):
        (repository / name / "config.pbtxt").write_text(lipsync.replace('name: "lipsync"', f'name: "{name}"'))
    config = ServerConfig(ports=Ports(0, 0, 0), load=tuple(models), required=tuple(models))
    with TritonServer(repository, config) as server, grpc.InferenceServerClient(server.grpc_url) as connected:
        yield connected


def test_served_encoder_equals_pytorch_and_slides_its_rows(client, networks):
    windows = np.random.default_rng(3).uniform(-4, 4, (22, 1, 80, 16)).astype(np.float32)
    mask = np.ones((22, 1), np.float32)
    mask[:8] = 0
    got = infer(client, "audio_encoder", mel_windows=windows, window_mask=mask)
    with torch.no_grad():
        expected = networks["audio_encoder"](torch.from_numpy(windows)).numpy() * mask
    np.testing.assert_allclose(got.embedding, expected, atol=1e-4)
    assert got.audio_features.shape == (7, 32, 16, 16)
    for frame in range(7):
        np.testing.assert_array_equal(got.audio_features[frame].ravel(), got.embedding[frame : frame + 16].ravel())


@pytest.mark.parametrize("width", ["half", "full"])
def test_served_mouth_is_within_one_level_of_pytorch(client, networks, crops, width):
    random = np.random.default_rng(4)
    features = random.uniform(0, 2, (6, 32, 16, 16)).astype(np.float32)
    positions = np.array([0, 6, 7, 12, 13, 10**9 + 5])
    frames = positions % 7 if width == "half" else 6 - np.abs(6 - positions % 12)
    got = infer(client, width, audio_features=features, footage_position=positions[:, None])
    crop = torch.from_numpy(crops[frames].transpose(0, 3, 1, 2)).float() / 255
    masked = crop.clone()
    masked[:, :, 5:310, 5:315] = 0  # what cv2.rectangle(img, (5, 5, 310, 305), ...) blacks
    with torch.no_grad():
        output = networks[width](torch.cat([crop, masked], 1), torch.from_numpy(features))
    expected = (output * 255).to(torch.uint8).numpy().transpose(0, 2, 3, 1)
    assert np.ptp(expected) > 20  # the comparison is about something
    assert np.abs(got.mouth.astype(int) - expected).max() <= 1
    assert got.avatar_key.ravel().tolist() == [77] * 6


def test_any_int64_position_stays_inside_the_footage(client):
    features = np.zeros((2, 32, 16, 16), np.float32)
    for width in ("half", "full"):
        got = infer(client, width, audio_features=features, footage_position=[[2**63 - 1], [-(2**63)]])
        assert got.mouth.shape == (2, 320, 320, 3)

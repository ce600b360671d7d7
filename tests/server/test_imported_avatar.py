"""A SyncTalk_2D checkpoint, imported and packed, serves what PyTorch computes, with its own audio encoder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import speech
from conftest import infer
from lipsync_client.control.control import KEY_HEADER
from lipsync_server.repository.source import AvatarSource

torch = pytest.importorskip("torch", reason="checkpoints need the extra studio")
from test_served_networks import settled  # noqa: E402

from lipsync_server.pipeline import LocalPipeline  # noqa: E402
from lipsync_server.repository.package import package_avatar  # noqa: E402
from lipsync_server.repository.source import face_crop  # noqa: E402
from lipsync_studio.importing.importer import ImportOptions, import_avatar  # noqa: E402
from lipsync_studio.networks import AudioEncoder, UNet  # noqa: E402
from synctalk_dataset import BOX, FRAMES, write_dataset  # noqa: E402

MODELS = ("imported", "imported_lipsync", "imported_audio_encoder")


@pytest.fixture(scope="module")
def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(11)
    return {"unet": settled(UNet("full")), "encoder": settled(AudioEncoder())}


@pytest.fixture(scope="module")
def source(networks, repository, server, client, tmp_path_factory):
    """The avatar `imported`, packed into the running server's repository and loaded."""
    folder = tmp_path_factory.mktemp("imported")
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / f"{name}.pth")
    dataset, target = write_dataset(folder / "dataset"), folder / "avatars" / "imported"
    import_avatar(folder / "unet.pth", dataset, target, ImportOptions(encoder=folder / "encoder.pth", mask="reference"))
    package_avatar(AvatarSource.read(target), repository)
    headers = {KEY_HEADER: server.control_key}
    client.load_model("imported", headers=headers)
    yield AvatarSource.read(target)
    for model in MODELS:
        client.unload_model(model, headers=headers)
        shutil.rmtree(repository / model)


def test_a_served_import_is_within_one_level_of_pytorch(source, client, networks):
    features = np.random.default_rng(4).uniform(0, 2, (4, 32, 16, 16)).astype(np.float32)
    positions = np.array([0, FRAMES - 1, FRAMES, 2 * FRAMES - 3])
    got = infer(client, "imported_lipsync", audio_features=features, footage_position=positions[:, None])
    frames = list(source.frames())
    for mouth, audio, position in zip(got.mouth, features, positions.tolist(), strict=True):
        number = min(position, 2 * FRAMES - 2 - position)
        crop = face_crop(frames[number], (BOX[0] + number, BOX[1], BOX[2])).transpose(2, 0, 1).astype(np.float32) / 255
        masked = crop.copy()
        masked[:, 5:310, 5:315] = 0
        with torch.no_grad():
            output = networks["unet"](
                torch.from_numpy(np.concatenate([crop, masked]))[None], torch.from_numpy(audio)[None]
            )
        expected = (output[0] * 255).to(torch.uint8).numpy().transpose(1, 2, 0)
        assert np.ptp(expected) > 20  # the comparison is about something
        in_mask = np.s_[5:310, 5:315]  # beside it the footage is returned
        assert np.abs(mouth[in_mask].astype(int) - expected[in_mask]).max() <= 1


def test_the_ensemble_uses_the_avatars_own_encoder(source, call, client, networks, repository):
    windows = np.random.default_rng(3).uniform(-4, 4, (17, 1, 80, 16)).astype(np.float32)
    inputs = {"mel_windows": windows, "window_mask": np.ones((17, 1), np.float32)}
    with torch.no_grad():
        expected = networks["encoder"](torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(infer(client, "imported_audio_encoder", **inputs).embedding, expected, atol=1e-4)
    babble = speech.babble(640 * 4)
    frames = [frame.jpeg for frame in LocalPipeline(repository, "imported").render(babble)]
    answer = call("imported", AUDIO=np.concatenate([babble, np.zeros(7240, np.float32)]), FRAME_COUNT=4)
    assert list(answer.JPEG) == frames

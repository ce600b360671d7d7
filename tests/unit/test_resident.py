"""What an avatar's footage decides alone is computed once, the rest only inside the mask: with the same picture."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper, shape_inference

from lipsync_server import home
from lipsync_server.networks.constants import ConstantsFile
from lipsync_server.networks.graphs import expand_weights
from lipsync_server.networks.head import with_head
from lipsync_server.networks.quantize import quantize
from lipsync_server.networks.resident import split, windowed
from lipsync_server.networks.unet_graphs import Resident
from lipsync_server.networks.window import Span, Window
from lipsync_server.repository.visual_half import write_networks

MASK = Window(Span(56, 300), Span(28, 292))
MASKS = {"a mask": MASK, "one at the corner": Window(Span(0, 120), Span(0, 90)), "all": Window.whole(320)}
MASKS["nearly all"] = Window(Span(5, 310), Span(5, 315))  # the mask of imported avatars
HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
head (float[N,16,160,160] half, float[N,3,320,320] crop) => (float[N,3,320,320] output)
{
  folded = SpaceToDepth<blocksize = 2>(crop)
  both = Concat<axis = 1>(half, folded)
  mixed = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(both, w1)
  active = Relu(mixed)
  planes = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(active, w2)
  picture = DepthToSpace<blocksize = 2, mode = "CRD">(planes)
  output = Sigmoid(picture)
}
"""


def head() -> onnx.ModelProto:
    model, random = onnx.parser.parse_model(HEAD), np.random.default_rng(5)
    for name, shape in (("w1", (8, 28, 3, 3)), ("w2", (12, 8, 3, 3))):
        weights = random.normal(0, 0.1, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    return model


def example(number: int) -> dict[str, np.ndarray]:
    """A U-Net's inputs: smooth noise, and sound that opens the mouth somehow."""
    random = np.random.default_rng(number)
    picture = np.kron(random.uniform(0, 1, (1, 6, 20, 20)), np.ones((16, 16))).astype(np.float32)
    return {"input": picture, "audio": random.uniform(0, 2, (1, 32, 16, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    return expand_weights(onnx.load(home.AVATARS / "demo" / "unet.onnx"))


@pytest.fixture(scope="module")
def networks(plain) -> dict[str, onnx.ModelProto]:
    """The demo's network as the presets have it."""
    small = quantize(plain, [example(number) for number in range(3)])
    return {
        "plain": plain,
        "INT8": small,
        "plain with head": with_head(plain, head()),
        "turbo": with_head(small, head()),
    }


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [tensor.name for tensor in session.get_outputs()]
    given = {tensor.name: inputs[tensor.name] for tensor in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("kind", ["plain", "INT8", "plain with head", "turbo"])
def test_both_halves_give_the_whole_networks_picture_inside_the_mask(networks, kind, where):
    network, mask = networks[kind], MASKS[where]
    halves = split(network)
    mouth = windowed(halves, mask)
    inputs = example(9)
    seen = run(halves.visual, inputs) | inputs
    for name, part in {"input": mouth.window, **mouth.parts}.items():
        seen[name] = np.ascontiguousarray(part.of(seen[name]))
    got = np.zeros((1, 3, 320, 320), np.float32)
    mouth.window.of(got)[:] = run(mouth.network, seen)["output"]
    expected = run(network, inputs)["output"]
    difference = mask.of(np.floor(got * 255) - np.floor(expected * 255))
    assert np.ptp(mask.of(expected)) > 0.2  # the comparison is about something
    if "plain" in kind:
        assert np.abs(difference).max() <= 1
    else:  # a sum that is rounded the other way may move a layer's byte by one
        assert 10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9)) > 60


def test_what_is_served_neither_sees_twice_nor_computes_beside_the_window(plain):
    halves = split(plain)
    convolutions = [sum(node.op_type == "Conv" for node in part.graph.node) for part in (plain, halves.mouth)]
    assert convolutions[1] < 0.7 * convolutions[0]
    assert sorted(halves.kept.values()) == [10, 20, 40, 80, 160]
    mouth = windowed(halves, MASK)
    assert mouth.window.shape == (250, 270)  # of 244 x 264, and three pixels around
    assert sorted(part.shape for part in mouth.parts.values())[-1] == (130, 140)  # of 160 x 160
    for info in (*mouth.network.graph.input, *mouth.network.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = shape_inference.infer_shapes(mouth.network, data_prop=True).graph.value_info
    shapes = [tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in inferred]
    assert sum(shape[2:] == (250, 270) for shape in shapes) > 10
    assert sum(shape[2:] == (320, 320) for shape in shapes) == 0


def test_a_head_for_another_network_is_refused(plain):
    other = onnx.parser.parse_model(HEAD.replace("float[N,16,160,160] half", "float[N,32,160,160] half"))
    with pytest.raises(ValueError, match=r"it must map half .N,16,160,160. and crop"):
        with_head(plain, other)


def test_a_head_leaves_nothing_of_the_last_stage(plain):
    model = with_head(plain, head())
    assert not any("up5" in name or "outc" in name for node in model.graph.node for name in node.output)
    assert not any("outc" in tensor.name for tensor in model.graph.initializer)


def test_constants_lie_at_pages_and_are_read_back(tmp_path):
    random = np.random.default_rng(1)
    values = {"crops": random.integers(0, 255, (3, 5, 7)).astype(np.uint8), "kept0": random.random((3, 11), np.float32)}
    kinds = {name: (array.dtype, array.shape[1:]) for name, array in values.items()}
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (uint8[3,5,7] crops, float[3,11] kept0, float[3,11] x)'
        " => (float[3,11] y, uint8[3,5,7] same) { y = Add(x, kept0) same = Identity(crops) }"
    )
    with ConstantsFile(tmp_path / "a.crops", 3, kinds) as file:
        for frame in (2, 0, 1):
            for name, array in values.items():
                file.write(name, frame, array[frame])
        with pytest.raises(ValueError, match="crops is float32"):
            file.write("crops", 0, np.zeros((5, 7), np.float32))
        onnx.save(file.within(model), tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx")
    x = random.random((3, 11), np.float32)
    y, same = session.run(["y", "same"], {"x": x})
    np.testing.assert_array_equal(y, x + values["kept0"])
    np.testing.assert_array_equal(same, values["crops"])
    loaded = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    offsets = {
        entry.value for tensor in loaded.graph.initializer for entry in tensor.external_data if entry.key == "offset"
    }
    assert offsets == {"0", "4096"}


@pytest.mark.slow
@pytest.mark.parametrize("blend", ["soft", "reference"])
def test_the_packed_network_shows_what_the_whole_one_shows(plain, tmp_path, blend):
    crops = np.random.default_rng(3).integers(0, 255, (2, 320, 320, 3)).astype(np.uint8)
    avatar = Resident(2, (28, 56, 264, 244), "forward", 9)
    write_networks(tmp_path, plain, crops, avatar, blend, "a.crops", openvino=True)
    inputs = {"audio_features": example(4)["audio"], "footage_position": np.array([[5]])}
    got, expected = (picture(tmp_path / name, inputs) for name in ("model.onnx", "whole.onnx"))
    mask = np.s_[56:300, 28:292] if blend == "soft" else np.s_[:, :]
    assert np.ptp(expected[mask]) > 20
    assert np.abs(got[mask].astype(int) - expected[mask]).max() <= 1
    if blend == "soft":
        assert not got[:50].any()  # beside the window nothing is computed


def picture(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    mouth: np.ndarray = ort.InferenceSession(path).run(["mouth"], inputs)[0]
    return mouth[0]

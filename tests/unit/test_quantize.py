"""INT8 keeps close to FP32, if need be with some layers in FP32."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from lipsync_server.networks.quantize import most_damaged, quantize, quantize_within

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[N,4,12,12] input) => (float[N,4,12,12] output)
{
  c1 = Conv(input, w1)
  a1 = Relu(c1)
  c2 = Conv(a1, w2)
  a2 = Relu(c2)
  c3 = Conv(a2, w3)
  a3 = Relu(c3)
  c4 = Conv(a3, w4)
  a4 = Relu(c4)
  output = Conv(a4, w5)
}
"""
EXAMPLES = [{"input": np.random.default_rng(n).uniform(0, 1, (1, 4, 12, 12)).astype(np.float32)} for n in range(8)]


def chain(loudest: float) -> onnx.ModelProto:
    """Five convolutions; the second makes one channel `loudest` times as loud, which the third ignores."""
    random = np.random.default_rng(3)
    model = onnx.parser.parse_model(NETWORK)
    for number in range(1, 6):
        weights = np.abs(random.standard_normal((4, 4, 1, 1))).astype(np.float32) * 0.4
        if number == 2:
            weights[0] *= loudest
        if number == 3:
            weights[:, 0] = 0
        model.graph.initializer.append(numpy_helper.from_array(weights, f"w{number}"))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{index}"
    return model


def distance(exact: onnx.ModelProto):
    """dB between a network and `exact`, of outputs in the unit of their largest."""

    def run(model):
        session = ort.InferenceSession(model.SerializeToString())
        return np.concatenate([session.run(["output"], example)[0] for example in EXAMPLES])

    wanted = run(exact)
    return lambda model: 10 * np.log10(wanted.max() ** 2 / np.mean((run(model) - wanted) ** 2))


def test_a_layer_that_spoils_the_picture_stays_in_fp32_and_the_others_do_not():
    network = chain(loudest=2000)
    psnr = distance(network)
    plain = quantize(network, EXAMPLES)
    assert psnr(plain) < 30
    assert set(most_damaged(network, plain, psnr)[:2]) == {"Conv2", "Conv4"}  # beside the loud tensor
    small, found, kept = quantize_within(network, EXAMPLES, psnr)
    assert found >= 38 and found == pytest.approx(psnr(small))
    assert 1 <= kept <= 3
    assert "QuantizeLinear" in {node.op_type for node in small.graph.node}


def test_a_network_that_bears_int8_keeps_no_layer_in_fp32():
    network = chain(loudest=1)
    _, found, kept = quantize_within(network, EXAMPLES, distance(network))
    assert kept == 0 and found >= 38


def test_what_touches_the_picture_itself_is_not_rounded():
    """The sum before the last convolution and the sigmoid behind it, as a U-Net ends."""
    network = chain(loudest=1)
    graph = network.graph
    graph.node[8].input[0] = "sum"
    graph.node[8].output[0] = "logits"
    graph.node.insert(8, onnx.helper.make_node("Add", ["a4", "a3"], ["sum"], name="LastAdd"))
    graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["output"], name="Sigmoid"))
    rounded = {node.input[0] for node in quantize(network, EXAMPLES).graph.node if node.op_type == "QuantizeLinear"}
    assert {"a1", "a2"} <= rounded
    assert not rounded & {"sum", "logits"}

"""The trial of arithmetics and engines: which is chosen, what is kept, and when a network is tried again."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from lipsync_onnx import engines, trial
from lipsync_onnx.cpu import cpu_kind
from lipsync_onnx.engines import BF16, ONNXRUNTIME, OPENVINO, engines_for, open_fastest
from lipsync_onnx.trial import ROUNDS, Findings, Outcome, fastest, trial_key
from lipsync_server.repository import engine_trial
from lipsync_server.repository.engine_trial import choose_way
from lipsync_server.repository.presets import PRESETS, ways_of

CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[N,4,8,8] x, uint8[N,4,8,8] kept) => (float[N,4,8,8] y)
<float[4,4,3,3] weights = {%s}>
{ levels = Cast<to = 1>(kept)
  sum = Add(x, levels)
  y = Conv<pads = [1,1,1,1], kernel_shape = [3,3]>(sum, weights) }
"""
CONFIG = {
    "max_batch_size": 8,
    "input": [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [4, 8, 8]},
        {"name": "kept", "data_type": "TYPE_UINT8", "dims": [4, 8, 8]},
    ],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4, 8, 8]}],
}
openvino = pytest.mark.skipif(not engines.has_openvino(), reason="OpenVINO is not installed")


def network(weight: float = 1.0) -> onnx.ModelProto:
    return onnx.parser.parse_model(CONVOLUTION % ",".join([str(weight)] * 144))


def config(engine: str, **stated: str) -> dict:
    """A packed network's config."""
    parameters = {name: {"string_value": value} for name, value in stated.items()}
    return engines.with_engine(CONFIG | {"parameters": parameters}, engine)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own: the file of the findings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lipsync" / "trials.json"


class Ways(dict):
    """Ways that run at given rates, an error where one is given; `runs` counts how often."""

    def __init__(self, **rates: float | Exception) -> None:
        self.runs = dict.fromkeys(rates, 0)
        super().__init__({name: lambda name=name, rate=rate: self._opened(name, rate) for name, rate in rates.items()})

    def _opened(self, name, rate):
        def measure(seconds):
            self.runs[name] += 1
            if isinstance(rate, Exception):
                raise rate
            return rate

        return measure


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"a": 30, "b": 63}, "b"),
        ({"a": 63, "b": 30}, "a"),
        ({"a": 60, "b": 63}, "a"),
        ({"a": 50, "b": 55, "c": 60}, "b"),
    ],
)
def test_the_fastest_is_chosen_and_of_nearly_equal_ones_the_first(rates, chosen):
    found = fastest(Ways(**rates))
    assert (found.chosen, found.rates) == (chosen, rates)


def test_a_much_slower_way_is_given_up_after_its_first_turn():
    ways = Ways(slow=10, fast=63, close=60, hopeless=20)
    fastest(ways)
    assert ways.runs == {"slow": 1, "fast": ROUNDS, "close": ROUNDS, "hopeless": 1}


def test_the_best_turn_of_each_way_counts():
    rates = iter([20.0, 63.0, 10.0])
    assert fastest({"a": lambda: lambda _: next(rates), "b": lambda: lambda _: 15.0}).rates == {"a": 63.0, "b": 15.0}


def test_a_way_that_fails_is_passed_over_and_named():
    turns = iter([99.0])

    def fails_later():
        return lambda _: next(turns, None) or 1 / 0

    found = fastest({**Ways(a=ValueError("Exception from x:1\nno primitive\n\n")), "b": fails_later, **Ways(c=30)})
    assert (found.chosen, found.rates) == ("c", {"c": 30})
    assert found.failed == {"a": "no primitive", "b": "division by zero"}
    assert str(found) == "c 30.0 rows/s; a failed (no primitive), b failed (division by zero)"


def test_a_network_that_runs_in_no_way_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="in no way: broken"):
        fastest(Ways(a=ValueError("broken"), b=OSError()))


def test_what_was_found_is_not_measured_again(cache):
    assert Findings().find("key", lambda: fastest(Ways(a=1, b=2))).chosen == "b"
    assert json.loads(cache.read_text())["key"]["rates"] == {"a": 1, "b": 2}
    assert Findings().find("key", lambda: pytest.fail("measured again")).chosen == "b"
    assert Findings().find("other", lambda: fastest(Ways(a=1))).chosen == "a"
    assert Findings().get("key"), "an earlier finding is lost"


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"key": 3}', '{"key": {"chosen": "a", "rates": {}}}'])
def test_a_file_that_makes_no_sense_holds_nothing(cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert Findings().find("key", lambda: Outcome("b", {"b": 1.0}, {})).chosen == "b"
    assert Findings().get("key") == Outcome("b", {"b": 1.0}, {})


def test_where_nothing_can_be_kept_each_trial_measures(cache):
    cache.parent.parent.write_text("a file, not a folder")
    for rate in (1.0, 2.0):
        assert Findings().find("key", lambda rate=rate: Outcome("a", {"a": rate}, {})).rates == {"a": rate}


def test_a_trial_with_a_failure_is_made_again():
    Findings().find("key", lambda: Outcome("a", {"a": 1.0}, {"b": "out of memory"}))
    assert Findings().find("key", lambda: Outcome("b", {"a": 1.0, "b": 2.0}, {})).chosen == "b"


def test_the_kind_of_cpu_is_its_model_its_instructions_and_their_limits(tmp_path):
    listing = tmp_path / "cpuinfo"

    def kind(model="Xeon", flags="fpu avx2 amx_int8", mhz="2000", **environment):
        listing.write_text(f"model name\t: {model}\ncpu MHz\t: {mhz}\nflags\t: {flags}\n")
        return cpu_kind(environment, listing)

    assert kind() == kind(mhz="3000") == kind(flags="fpu avx2 amx_int8 new_thing")
    others = [kind("EPYC"), kind(flags="fpu avx2"), kind(ONEDNN_MAX_CPU_ISA="AVX2")]
    assert len({kind(), *others}) == 4
    listing.unlink()
    assert cpu_kind({}, listing) != kind()


def test_a_finding_holds_for_networks_of_one_structure_whatever_their_weights():
    ways = list(ways_of("medium"))
    key = engine_trial._key("medium", {"FP32": network()}, ways)
    assert key == engine_trial._key("medium", {"FP32": network(2.0)}, ways)
    wider = network()
    wider.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 16
    others = [("low", network(), ways), ("medium", wider, ways), ("medium", network(), ways[1:])]
    assert key not in [engine_trial._key(preset, {"FP32": net}, some) for preset, net, some in others]


@pytest.mark.parametrize("changed", ["cpu_kind", "_version"])
def test_a_finding_holds_for_one_kind_of_cpu_and_one_version_of_the_engines(monkeypatch, changed):
    before = trial_key(["a"])
    monkeypatch.setattr(trial, changed, lambda *_: "other")
    assert trial_key(["a"]) != before


@pytest.fixture
def tried(monkeypatch) -> list[list[str]]:
    """The ways of each trial, which finds that the last is the fastest."""
    trials = []

    def outcome(networks, ways):
        trials.append([str(way) for way in ways])
        return fastest(Ways(**{name: number for number, name in enumerate(trials[-1], 1)}))

    monkeypatch.setattr(engine_trial, "_tried", outcome)
    monkeypatch.setattr(engine_trial, "has_openvino", lambda: True)
    monkeypatch.setattr(engine_trial, "has_bf16", lambda: True)
    return trials


@pytest.mark.parametrize("preset", PRESETS)
def test_the_fastest_way_that_the_preset_allows_is_packed(tried, preset, capfd):
    way, cpu = choose_way("anna", preset, {"FP32": network(), "INT8": network()})
    assert cpu == cpu_kind() and str(way) == tried[0][-1]
    allowed = {"exact": {"FP32"}, "medium": {"FP32", "BF16"}}.get(preset, {"INT8", "FP32", "BF16"})
    assert {name.partition(" ")[0] for name in tried[0]} == allowed
    told = capfd.readouterr().err.replace("\n", " ")
    assert told.startswith(f"anna runs in {way}") and all(name in told for name in tried[0])
    assert choose_way("bert", preset, {"FP32": network(2.0), "INT8": network()})[0] == way and len(tried) == 1


def test_bf16_is_tried_only_where_the_cpu_has_it(tried, monkeypatch):
    monkeypatch.setattr(engine_trial, "has_bf16", lambda: False)
    choose_way("anna", "medium", {"FP32": network()})
    assert {name.partition(" ")[0] for name in tried[0]} == {"FP32"}


def test_nothing_is_tried_where_a_gpu_serves_or_there_is_one_engine(tried, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine_trial.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        assert choose_way("anna", "medium", {"FP32": network()}) == (ways_of("medium")[0], None)
    monkeypatch.setattr(engine_trial, "has_openvino", lambda: False)
    assert choose_way("anna", "low", {"FP32": network()}) == (ways_of("low")[0], None)
    assert not tried


@openvino
@pytest.mark.slow
def test_a_real_trial_runs_each_way_in_a_process_of_its_own():
    ways = [way for way in ways_of("low") if way.arithmetic != "BF16"]
    found = engine_trial._tried({"FP32": network(), "INT8": network()}, ways)
    assert found.rates.keys() == {str(way) for way in ways} and min(found.rates.values()) > 0 and not found.failed


@openvino
@pytest.mark.slow
def test_a_trial_that_cannot_be_made_leaves_the_presets_own_way(monkeypatch, capfd):
    monkeypatch.setattr(engine_trial, "SECONDS", 0.01)
    way, cpu = choose_way("anna", "exact", {"FP32": network()})
    assert (way, cpu) == (ways_of("exact")[0], None) and "took longer" in capfd.readouterr().err


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Path:
    """A packed network, which ONNX Runtime runs at 20 rows a second and OpenVINO at 10."""
    path = tmp_path / "model.onnx"
    onnx.save(network(), path)
    rates = {"ONNX Runtime": 20.0, "OpenVINO": 10.0}
    monkeypatch.setattr(engines, "measured", lambda net, _: lambda seconds: rates[net.device.partition(",")[0]])
    return path


@openvino
def test_a_network_from_another_kind_of_cpu_gets_the_fastest_engine_here(packed, cache, monkeypatch):
    foreign = config(OPENVINO, preset="low", trial_cpu="another")
    opened = open_fastest(foreign, packed, "CPU", 0)
    assert opened.device == "ONNX Runtime, CPUExecutionProvider"
    assert "ONNX Runtime 20.0 rows/s; OpenVINO 10.0" in opened.trial
    inputs = {"x": np.ones((1, 4, 8, 8), np.float32), "kept": np.zeros((1, 4, 8, 8), np.uint8)}
    assert opened.run(["y"], inputs)[0][0, 0, 4, 4] == 36
    monkeypatch.setattr(engines, "fastest", lambda _: pytest.fail("tried again"))
    assert open_fastest(foreign, packed, "CPU", 0).device == opened.device


@openvino
@pytest.mark.parametrize("stated", [{"trial_cpu": "here"}, {}])
def test_a_network_of_this_kind_of_cpu_or_never_tried_runs_as_packed(packed, monkeypatch, stated):
    monkeypatch.setattr(engines, "cpu_kind", lambda: "here")
    opened = open_fastest(config(OPENVINO, preset="low", **stated), packed, "CPU", 0)
    assert (opened.device, opened.trial) == ("OpenVINO, f32", "")


@openvino
def test_a_network_for_a_gpu_is_not_tried(packed, monkeypatch):
    monkeypatch.setattr(engines, "fastest", lambda _: pytest.fail("tried"))
    assert not open_fastest(config(OPENVINO, preset="low", trial_cpu="another"), packed, "GPU", 0).trial


@openvino
def test_an_engine_that_does_not_run_the_network_is_passed_over_at_its_first_load(packed, monkeypatch):
    def refuses(config, path, kind, device, real=engines.open_network):
        if not config["optimization"]["execution_accelerators"]["cpu_execution_accelerator"]:
            raise ValueError("not here")
        return real(config, path, kind, device)

    monkeypatch.setattr(engines, "open_network", refuses)
    opened = open_fastest(config(OPENVINO, preset="low", trial_cpu="another"), packed, "CPU", 0)
    assert opened.device == "OpenVINO, f32" and "ONNX Runtime failed (not here)" in opened.trial


@pytest.mark.parametrize(
    ("engine", "preset", "names"),
    [
        (OPENVINO, "low", [OPENVINO, ONNXRUNTIME]),
        (ONNXRUNTIME, "medium", [ONNXRUNTIME, OPENVINO, BF16]),
        (BF16, "medium", [BF16, OPENVINO, ONNXRUNTIME]),
        (BF16, "low", [BF16, OPENVINO, ONNXRUNTIME]),
    ],
)
def test_bf16_is_an_engine_where_the_config_or_the_preset_means_it(monkeypatch, engine, preset, names):
    monkeypatch.setattr(engines, "has_openvino", lambda: True)
    for has in (True, False):
        monkeypatch.setattr(engines, "has_bf16", lambda has=has: has)
        assert engines_for(config(engine, preset=preset)) == [name for name in names if has or name != BF16]


def test_a_config_of_somebody_elses_engine_is_left_alone(monkeypatch):
    monkeypatch.setattr(engines, "has_openvino", lambda: True)
    stated = config(OPENVINO)
    stated["optimization"]["execution_accelerators"]["cpu_execution_accelerator"] = [
        {"name": "openvino", "parameters": {"num_of_threads": "2"}}
    ]
    assert len(engines_for(stated)) == 1

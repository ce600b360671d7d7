"""The benchmark's bookkeeping: results that are kept and dropped, perf_analyzer's text, a report of what there is."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import onnx
import onnx.parser
import pytest

from lipsync_client.errors import LipsyncError
from lipsync_client.wire import CA_FILE_VARIABLE
from lipsync_server.benchmark import PARTS, QUICK, packed, run
from lipsync_server.benchmark.analyzer import parsed
from lipsync_server.benchmark.quick import way_of
from lipsync_server.benchmark.report import write_report
from lipsync_server.benchmark.results import Results
from lipsync_server.benchmark.throughput import CHUNKS
from lipsync_server.cli import perf
from lipsync_server.cli.bench import bench_table
from lipsync_studio.benchmark.plot import plot_streams

TWO_CALLERS = """
Request concurrency: 1
  Client:
    Request count: 30
    Throughput: 2.77664 infer/sec
    p50 latency: 347560 usec
    p90 latency: 366304 usec
    p95 latency: 379500 usec
    p99 latency: 396975 usec
  Composing models:
  audio_encoder_int8, version: 1
      Inference count: 31
      Avg request latency: 34124 usec (overhead 4 usec + queue 127 usec + compute input 58 usec + compute infer 33685 usec + compute output 248 usec)

  demo-low_lipsync, version: 2
      Avg request latency: 288538 usec (overhead 5 usec + queue 180 usec + compute input 154 usec + compute infer 286781 usec + compute output 1416 usec)

Request concurrency: 2
  Client:
    Throughput: 3.5 infer/sec
    p50 latency: 500000 usec
    p95 latency: 600000 usec
    p99 latency: 700000 usec
  Composing models:
  demo-low_lipsync, version: 2
      Avg request latency: 1 usec (overhead 5 usec + queue 200000 usec + compute input 154 usec + compute infer 286781 usec + compute output 1416 usec)
"""  # noqa: E501


def speeds(fps: float) -> dict:
    return {
        "frames_s": {"reference": [fps / 10], "floor": [fps], **{str(chunk): [fps, fps + 1] for chunk in CHUNKS}},
        "first_frame_ms": [80.0, 90.0],
        "stages_ms": {"4": [1.0, 50.0, 3.0, 54.0]},
        "core_ms": {"triton": 0.2, "demo-low_lipsync": 9.0, "audio_encoder_int8": 0.3, "composite": 0.7},
        "request_bytes": 113_000,
    }


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "work", keep=True, quick=False, gpu=None)


def test_a_run_goes_on_where_it_was_left_unless_it_is_another_one(results, tmp_path):
    results.add("throughput", "low", speeds(50))
    again = Results(tmp_path / "work", keep=True, quick=False, gpu=None)
    assert again.has("throughput", "low") and not again.has("throughput", "high")
    for other in ({"keep": False, "quick": False, "gpu": None}, {"keep": True, "quick": True, "gpu": None}):
        assert not Results(tmp_path / "work", **other).has("throughput", "low")
    assert not Results(tmp_path / "work", keep=True, quick=False, gpu="cuda").has("throughput", "low")


class Served(Exception):
    """A part asked for a server."""


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("part", [QUICK, *(part for part in PARTS if part != "composite")])
def test_the_avatar_that_a_part_serves_is_packed(tmp_path, monkeypatch, part, alone):
    packed, served = [], []

    def pack(folder, presets, full_width):
        packed.extend(f"demo-{preset}" for preset in presets)
        return folder

    @contextmanager
    def server(benchmark, avatar):
        served.append(avatar)
        raise Served
        yield

    monkeypatch.setattr(run, "packed_repository", pack)
    monkeypatch.setattr(run.Benchmark, "server", server)
    with pytest.raises(Served):
        run.measure(tmp_path, ["low"], [part] if alone else [part, *(other for other in PARTS if other != part)])
    assert set(served) <= set(packed) and (set(served) == set(packed) or not alone)


def test_perf_analyzers_text_becomes_numbers():
    one, two = parsed(TWO_CALLERS)
    assert (one["callers"], one["requests_s"], one["p95"]) == (1, 2.77664, 379.5)
    assert one["steps"]["audio_encoder_int8"] == [0.127, 0.058, 33.685, 0.248]
    assert two["callers"] == 2 and two["steps"]["demo-low_lipsync"][0] == 200.0


def test_perf_with_json_prints_one_document_or_fails(tmp_path, monkeypatch, capfd):
    program = tmp_path / "perf_analyzer"
    monkeypatch.setattr(perf, "installed", lambda: tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    program.write_text(f"#!/bin/sh\necho a warning >&2\ncat <<END\n{TWO_CALLERS}\nEND\n")
    program.chmod(0o755)
    perf.perf(SimpleNamespace(args=[]), frames=8, as_json=True)
    assert json.loads(capfd.readouterr().out) == parsed(TWO_CALLERS)
    program.write_text("#!/bin/sh\necho no such model\nexit 1\n")
    with pytest.raises(LipsyncError, match="perf_analyzer failed: no such model"):
        perf.perf(SimpleNamespace(args=[]), frames=8, as_json=True)


@pytest.mark.parametrize(
    ("server", "options"),
    [
        ("10.0.0.7:8001", "-u 10.0.0.7:8001 --input-data"),
        ("grpc://host", "-u host:8001 --input-data"),
        (
            "grpcs://host:1",
            "-u host:1 --ssl-grpc-use-ssl true --ssl-grpc-root-certifications-file ca.pem --input-data",
        ),
    ],
)
def test_perf_reaches_the_server_as_its_address_says(tmp_path, monkeypatch, server, options):
    program = tmp_path / "perf_analyzer"
    monkeypatch.setattr(perf, "installed", lambda: tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setenv(CA_FILE_VARIABLE, "ca.pem")
    program.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(LipsyncError, match=f"-i grpc {options}"):
        perf.perf(SimpleNamespace(args=[]), frames=8, server=server, as_json=True)
    with pytest.raises(LipsyncError, match=r"https:// is for its HTTP port"):
        perf.perf(SimpleNamespace(args=[]), server="https://host", as_json=True)


def test_the_report_has_what_was_measured_and_leaves_out_the_rest(results, tmp_path):
    path = tmp_path / "benchmarks.md"
    results.add("throughput", "low", speeds(50))
    results.add("perf_analyzer", "low", parsed(TWO_CALLERS))
    write_report(results, path)
    text = path.read_text()
    assert "| served, 25 frames a request | 50.5 (50.0 to 51.0) |" in text
    assert "| low | 2 | 87.5 | 500 | 600 | 700 | - | - | 200 + 288 | - |" in text
    assert "| low | 50.5 | 10.1 | 1.01 | 85 | - | - |" in text
    assert "| low | 0.20 | 0.00 | 0.30 | 9.00 | 0.70 | 10.2 |" in text
    assert "Live streams" not in text
    load = {"streams": 2, "seconds": 60, "late": 0, "frames": 3000, "p50": 100.0, "p95": 120.0, "p99": 130.0}
    overload = {"frames_s": 49.0, "answered": 90, "refused": 1000}
    found = {"loads": [load], "sessions": "1 | 0 | 2.0 | 90 (95) | 30 (35)", "overload": overload, "memory_mb": 512.3}
    results.add("streams", "low", found)
    write_report(results, path)
    assert "| low | 50.5 | 10.1 | 1.01 | 85 | 2 | 512 |" in path.read_text()
    assert "benchmarks.png" not in path.read_text() and not path.with_suffix(".png").exists()
    write_report(results, path, plot_streams)
    assert "(benchmarks.png)" in path.read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_short_look_says_what_the_machine_carries_and_how_it_computes(results, tmp_path):
    loads = [{"streams": 1, "late": 0}, {"streams": 2, "late": 3}]
    look = {"frames_s": {"25": [60.0, 64.0]}, "first_frame_ms": [80.0], "loads": loads, "way": "INT8 by OpenVINO"}
    results.add(QUICK, "low", look)
    write_report(results, tmp_path / "report.md")
    assert "| low | 62.0 | 80 | 1 | INT8 by OpenVINO |" in (tmp_path / "report.md").read_text()
    table = bench_table(results)
    assert [list(column.cells) for column in table.columns] == [["low"], ["62.0"], ["80"], ["1"], ["INT8 by OpenVINO"]]


@pytest.mark.parametrize(("head", "presets"), [("head.onnx", ["turbo", "low", "medium"]), (None, ["low", "medium"])])
def test_turbo_is_measured_where_the_demo_has_a_head(monkeypatch, head, presets):
    monkeypatch.setattr(packed.AvatarSource, "read", lambda _: SimpleNamespace(head=head))
    assert packed.demo_presets() == presets


def test_a_short_look_tells_the_arithmetic_and_the_engine_of_a_packed_network(tmp_path):
    (tmp_path / "1").mkdir()
    kinds = {"FP32": "y = Relu(x)", "INT8": "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"}
    config = "optimization { execution_accelerators { cpu_execution_accelerator: [ %s ] } }"
    accelerators = {
        "ONNX Runtime": "",
        "OpenVINO": '{ name: "openvino" }',
        "BF16": '{ name: "openvino" parameters { key: "precision" value: "BF16" } }',
    }
    for arithmetic, nodes in kinds.items():
        text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y)
        <float s = {{1}}, uint8 z = {{0}}> {{ {nodes} }}"""
        onnx.save(onnx.parser.parse_model(text), tmp_path / "1" / "model.onnx")
        for engine, entry in accelerators.items():
            (tmp_path / "config.pbtxt").write_text(config % entry)
            expected = "BF16 by OpenVINO" if engine == "BF16" else f"{arithmetic} by {engine}"
            assert way_of(tmp_path) == expected

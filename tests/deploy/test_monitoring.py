"""Alerts, dashboard and traces against a live server: Prometheus scrapes it, and a collector gets its spans."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import yaml
from deployment import DEPLOY, KEY, entry_point, free_ports, read

from gateway_process import Gateway, gateway
from lipsync_client import Client
from lipsync_server.repository.gpu import write_gpu_models
from speech import real_speech

MONITORING = DEPLOY / "monitoring"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SECONDS = 90
NEEDS_A_GPU = ("nv_gpu_",)
NEEDS_TROUBLE = ("refusals",)  # no series before the first one


@dataclass
class Live:
    """A server that has made frames: its gateway, and what the collector printed."""

    front: Gateway
    collected: Path


@contextlib.contextmanager
def running(command: list[str | Path], log: Path) -> Iterator[None]:
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
        assert process.poll() is None, log.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def live(repository, tmp_path_factory) -> Iterator[Live]:
    """The entry point of the image and a gateway as deploy/ has them, both with traces; one speech was rendered."""
    folder = tmp_path_factory.mktemp("live")
    write_gpu_models(repository)
    otlp_grpc, otlp_http = free_ports(2)
    package = find_spec("rotel")
    assert package and package.origin, "rotel is missing: pip install -r deploy/requirements.txt"
    collector = [
        Path(package.origin).with_name("rotel-agent"),
        "start",
        "--exporter",
        "blackhole",
        "--batch-timeout",
        "200ms",
    ]
    collector += ["--debug-log", "traces", "--debug-log-verbosity", "detailed", "--pid-file", folder / "pid"]
    collector += ["--otlp-grpc-endpoint", f"127.0.0.1:{otlp_grpc}", "--otlp-http-endpoint", f"127.0.0.1:{otlp_http}"]
    spans = [
        "mode=opentelemetry",
        "rate=1",
        "level=TIMESTAMPS",
        f"opentelemetry,url=http://127.0.0.1:{otlp_http}/v1/traces",
    ]
    with (
        running(collector, folder / "rotel.log"),
        entry_point(repository, folder, *(f"--trace-config={one}" for one in spans)) as (_, ports),
    ):
        settings = read("docker/gateway.yaml")["gateway"] | {
            "upstreams": [],
            "bind": "127.0.0.1",
            "upstream_metrics": f"127.0.0.1:{ports['metrics']}",
            "tokens": str(folder / "tokens.yaml"),
            "tracing": {"otlp_endpoint": f"http://127.0.0.1:{otlp_grpc}"},
            "request_log": {"file": None},
        }
        settings.pop("upstreams")
        with gateway(folder, f"127.0.0.1:{ports['grpc']}", key=KEY, patience_s=SECONDS, **settings) as front:
            front.wait()
            with Client(front.grpc, timeout=SECONDS) as client:
                assert len(list(client.render(real_speech()[:16_000], chunk=8))) == 25
            yield Live(front, folder / "rotel.log")


def test_promtool_finds_no_mistake_and_the_alerts_come_when_they_should(tmp_path):
    for name in ("prometheus.yaml", "alerts.yaml", "alerts.test.yaml"):
        shutil.copy(MONITORING / name, tmp_path)
    (tmp_path / "lipsync.token").touch()
    for command in ("check config prometheus.yaml", "check rules alerts.yaml", "test rules alerts.test.yaml"):
        outcome = subprocess.run(
            ["promtool", *command.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def queries() -> dict[str, str]:
    """The dashboard's queries by their panel, and the recorded figures' and alerts' by their name."""
    found = {}
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        found |= {f"{panel['title']} {one['refId']}": one["expr"] for one in panel["targets"]}
    for group in read("monitoring/alerts.yaml")["groups"]:
        found |= {rule["record"]: rule["expr"] for rule in group["rules"] if "record" in rule}
    return found


def test_every_alert_has_a_test_in_which_it_comes():
    names = {
        rule["alert"]
        for group in read("monitoring/alerts.yaml")["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    tests = [one for test in read("monitoring/alerts.test.yaml")["tests"] for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in tests if one["exp_alerts"]} == names


def test_every_metric_that_is_asked_for_is_one_that_a_live_server_has(live):
    text = live.front.get("/metrics")[1].decode()
    there = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    asked = set(re.findall(r"\b(?:lipsync_gateway|nv)_\w+", " ".join(queries().values())))
    asked |= set(re.findall(r"\b(?:lipsync_gateway|nv)_\w+", (MONITORING / "alerts.yaml").read_text()))
    missing = {name for name in asked if not {name, name.removesuffix("_bucket")} & there}
    assert {name for name in missing if not name.startswith(NEEDS_A_GPU)} == set()
    assert len(asked) > 10


def ask(address: str, path: str, **parameters: str) -> Any:
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)["data"]


def test_prometheus_scrapes_the_server_and_the_dashboard_shows_something(live, tmp_path):
    config = read("monitoring/prometheus.yaml")
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [live.front.http]}]
    job.pop("authorization")  # callers on this machine need no token
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yaml", tmp_path)
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command: list[str | Path] = ["prometheus", f"--config.file={tmp_path}/prometheus.yaml"]
    command += [f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={address}"]
    with running(command, tmp_path / "prometheus.log"):
        deadline = time.monotonic() + SECONDS
        empty = set(queries())
        while {name for name in empty if not name.startswith(("GPU", "Refusals"))}:
            assert time.monotonic() < deadline, empty
            with Client(live.front.grpc, timeout=SECONDS) as client:
                list(client.render(real_speech()[:16_000], chunk=8))
            with contextlib.suppress(OSError):
                empty = {name for name, query in queries().items() if not ask(address, "query", query=query)["result"]}
            time.sleep(1)
        (target,) = ask(address, "targets")["activeTargets"]
        assert target["health"] == "up"
        groups = ask(address, "rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules and all(rule["health"] == "ok" for rule in rules), rules
        assert not [one for one in ask(address, "alerts")["alerts"] if one["state"] == "firing"]


def test_one_trace_goes_from_the_caller_through_the_gateway_to_the_stages(live):
    speech = real_speech()[:16_000]
    tensor = grpc.InferInput("AUDIO", [len(speech)], "FP32").set_data_from_numpy(np.asarray(speech, np.float32))
    parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    with grpc.InferenceServerClient(live.front.grpc) as client:
        client.infer("lipsync_ensemble", [tensor], headers=parent)
    wanted = {
        "ModelInfer",
        "InferRequest",
        "lipsync_ensemble",
        "mel_preprocess",
        "audio_encoder_int8",  # the demo is in INT8
        "lipsync",
        "composite",
    }
    deadline = time.monotonic() + SECONDS
    while not wanted <= (seen := span_names(live.collected.read_text(), TRACE)):
        assert time.monotonic() < deadline, seen or live.collected.read_text()[-3000:]
        time.sleep(0.5)


def span_names(text: str, trace: str) -> set[str]:
    """Names of the spans of a trace in the collector's log."""
    blocks = re.split(r"^Span #\d+", text, flags=re.MULTILINE)
    return {match.group(1) for block in blocks if trace in block and (match := re.search(r"Name\s*: (\S+)", block))}

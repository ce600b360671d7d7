"""What is in the images, run without Docker: the install step, the entry points, the health checks, the settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import yaml
from deployment import DEPLOY, KEY, entry_point, program, read, stage_process

from checkout import ROOT
from gateway_process import gateway
from lipsync_client import Client
from lipsync_server.repository.gpu import write_gpu_models
from speech import real_speech

SPEECH = real_speech()[:32_000]
SECONDS = 120


def probe(kind: str, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DEPLOY / "docker/probe.py", kind, f"http://{url}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_finds_nothing_in_the_dockerfiles():
    files = sorted((DEPLOY / "docker").glob("Dockerfile*"))
    assert [path.name for path in files] == ["Dockerfile", "Dockerfile.cpu"]
    outcome = subprocess.run(
        [program("hadolint"), "--no-color", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.returncode == 0, outcome.stdout


def test_every_image_and_package_has_a_fixed_version():
    for path in (DEPLOY / "docker").glob("Dockerfile*"):
        for image in re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE):
            assert re.search(r":\d+\.\d+[\w.-]*$", image) or image in ("lipsync", "${MODELS}"), image
    for name, service in read("docker/compose.yaml")["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
    lines = (DEPLOY / "docker/constraints.txt").read_text().splitlines() + (
        DEPLOY / "requirements.txt"
    ).read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[\w.\[\],-]+==\S+", line) for line in lines)


def test_the_install_step_of_the_image_finds_all_it_needs_in_fixed_versions(tmp_path):
    """The command of Dockerfile.cpu, as far as it goes without installing anything."""
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.crops", "*.data", "*.bin")
    shutil.copytree(ROOT, tmp_path / "checkout", symlinks=True, ignore=unwanted)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, tmp_path / "checkout"]
    subprocess.run(build, check=True, capture_output=True, timeout=SECONDS)
    (wheel,) = tmp_path.glob("*.whl")
    text = (DEPLOY / "docker/Dockerfile.cpu").read_text()
    (command,) = re.findall(r"pip (install [^\n]*--constraint [^\n]*)", text)
    assert " /constraints.txt " in command and '"$(echo /wheels/*.whl)' in command
    command = command.replace("/constraints.txt", str(DEPLOY / "docker/constraints.txt"))
    command = command.replace("$(echo /wheels/*.whl)", str(wheel)) + " --dry-run --report -"
    report = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pip -q {command}"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    taken = {
        one["metadata"]["name"].lower(): one["metadata"]["version"] for one in json.loads(report.stdout)["install"]
    }
    assert taken.pop("lipsync-triton")  # the others are those that this environment has in other versions, or none
    fixed = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (DEPLOY / "docker/constraints.txt").read_text().lower(), re.MULTILINE)
    )
    assert {name.replace("_", "-"): version for name, version in taken.items()}.items() <= fixed.items()


def test_the_entry_point_serves_before_the_gateway_and_the_probe_sees_a_dead_stage(repository, tmp_path):
    write_gpu_models(repository)  # as Dockerfile.cpu's target `models`
    with entry_point(repository, tmp_path) as (pid, ports):
        deadline = time.monotonic() + SECONDS
        while probe("triton", f"127.0.0.1:{ports['http']}").returncode:
            assert time.monotonic() < deadline, (tmp_path / "triton.log").read_text()[-3000:]
        settings = read("docker/gateway.yaml")["gateway"]
        upstream = settings.pop("upstreams")[0].rpartition(":")[0] + f":{ports['grpc']}"
        settings |= {"tokens": str(tmp_path / "tokens.yaml"), "upstream_metrics": f"127.0.0.1:{ports['metrics']}"}
        settings["request_log"]["file"] = str(tmp_path / "requests.log")  # stderr must stay silent in this test
        with gateway(tmp_path, upstream, key=KEY, **settings) as front, Client(upstream) as direct:
            port = front.grpc.rpartition(":")[2]
            front.http = f"127.0.0.1:{front.http.rpartition(':')[2]}"
            front.wait()
            assert probe("gateway", front.http).returncode == 0
            with Client(f"127.0.0.1:{port}", timeout=60) as client:
                frames = [frame.jpeg for frame in client.render(SPEECH, chunk=8)]
            assert frames == [frame.jpeg for frame in direct.render(SPEECH, chunk=8)]
            assert b"nv_inference_request_success" in front.get("/metrics")[1]
            os.kill(stage_process(pid, "composite"), signal.SIGKILL)
            found = probe("triton", f"127.0.0.1:{ports['http']}")
            assert found.returncode == 1 and len(found.stderr.strip().splitlines()) == 1, found.stderr
            front.wait(ready=False)
            assert probe("gateway", front.http).returncode == 1


def test_the_entry_point_refuses_to_start_without_a_control_key():
    environment = {"PATH": os.environ["PATH"]}
    outcome = subprocess.run(
        [DEPLOY / "docker/triton.sh"], env=environment, capture_output=True, text=True, timeout=10, check=False
    )
    assert outcome.returncode and "set LIPSYNC_CONTROL_KEY to a secret" in outcome.stderr


def test_compose_mounts_what_exists_and_asks_for_options_that_exist():
    compose = read("docker/compose.yaml")
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./secrets"):
                continue
            assert (DEPLOY / "docker" / source).exists() if source.startswith(".") else source in compose["volumes"], (
                volume
            )
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "only this machine may reach it"
        if service["image"].startswith("lipsync-cpu") and "command" in service:
            command, *options = service["command"]
            asked = [program("lipsync"), command, "--help"]
            wide = {**os.environ, "COLUMNS": "200"}
            listing = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True, env=wide).stdout
            assert {option for option in options if option.startswith("--")} <= set(re.findall(r"--[a-z-]+", listing))


def test_the_settings_in_the_images_are_valid(tmp_path):
    from lipsync_server.gateway.settings import GatewaySettings
    from lipsync_server.serving import ServerConfig

    config = ServerConfig.from_yaml(DEPLOY / "docker/server.yaml")
    assert config.bind == "0.0.0.0"
    GatewaySettings.from_dict(read("docker/gateway.yaml")["gateway"])
    text = (DEPLOY / "docker/Dockerfile.cpu").read_text()
    (command,) = re.findall(r"^CMD (\[.*\])", text, re.MULTILINE)
    assert yaml.safe_load(command)[:2] == ["serve", "--config"]
    assert "/etc/lipsync/server.yaml" in text

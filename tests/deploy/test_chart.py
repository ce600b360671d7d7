"""The chart, rendered by Helm itself: every manifest fits Kubernetes' schemas, and means what it should."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import DEPLOY, read

from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.serving import ServerConfig

helm_python = pytest.importorskip("helm_python")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = DEPLOY / "helm/lipsync"
GOLDENS = Path(__file__).with_name("goldens")
SETS = sorted(path.stem for path in (DEPLOY / "helm/values").glob("*.yaml"))
VERSIONS = ("1.29", "1.37")
OTHERS = ("ServiceMonitor", "PrometheusRule", "ScaledObject")  # their schemas are their operators'


@cache
def rendered(name: str) -> list[Any]:
    """The manifests of a value set."""
    with helm_python.Chart.load(str(CHART)) as chart:
        texts = chart.render(values=read(f"helm/values/{name}.yaml"), name="talk", namespace="studio")
    return [one for _, text in sorted(texts.items()) for one in yaml.safe_load_all(text) if one]


def the(name: str, kind: str, which: str = "talk") -> Any:
    (one,) = [one for one in rendered(name) if one["kind"] == kind and one["metadata"]["name"] == which]
    return one


def containers(name: str) -> dict[str, Any]:
    spec = the(name, "StatefulSet")["spec"]["template"]["spec"]
    return {one["name"]: one for one in [*spec.get("initContainers", []), *spec["containers"]]}


def test_there_are_five_value_sets_and_helm_finds_nothing_in_the_chart():
    assert len(SETS) == 5
    for name in SETS:
        report = helm_python.chart.lint(str(CHART), values=read(f"helm/values/{name}.yaml"), strict=True)
        assert not [one for one in report["messages"] if one["severity"] > 1], report


@pytest.mark.parametrize("name", SETS)
def test_every_manifest_fits_the_schemas_of_kubernetes(name):
    for manifest in rendered(name):
        if manifest["kind"] not in OTHERS:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_the_chart_makes_what_it_made(name):
    """Goldens of what matters. To renew them, delete the file and run this test twice."""
    lines = []
    for one in rendered(name):
        lines.append(f"{one['kind']} {one['metadata']['name']}")
        spec = one.get("spec", {})
        pod = spec.get("template", {}).get("spec", {})
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            words = [container["name"], container["image"], *container.get("args", [])]
            words += sorted(mount["mountPath"] for mount in container["volumeMounts"])
            lines.append(f"  {' '.join(words)}")
        for key in ("replicas", "minReplicas", "maxReplicas", "minReplicaCount", "maxReplicaCount", "maxUnavailable"):
            if key in spec:
                lines.append(f"  {key} {spec[key]}")
    golden = GOLDENS / f"{name}.txt"
    text = "\n".join(lines) + "\n"
    if not golden.exists():
        golden.write_text(text)
        pytest.fail(f"{golden.name} was missing: written")
    assert text == golden.read_text()


@pytest.mark.parametrize("name", SETS)
def test_the_settings_in_the_chart_are_valid_ones_of_the_program_that_reads_them(name, tmp_path):
    text = the(name, "ConfigMap", "talk-settings")["data"]["server.yaml"]
    values = yaml.safe_load(text)
    args = next(iter(containers(name).values()))["args"]
    if args[0] == "serve":
        (tmp_path / "server.yaml").write_text(text)
        assert ServerConfig.from_yaml(tmp_path / "server.yaml").bind == "0.0.0.0"
    else:
        assert args[0] == "gateway"
        assert GatewaySettings.from_dict(values["gateway"]).upstreams == ("127.0.0.1:9001",)
    assert values["gateway"]["tokens"].startswith("/etc/lipsync/secrets/")


@pytest.mark.parametrize("name", SETS)
def test_pods_run_without_rights_and_their_probes_tell_the_truth(name):
    for one in rendered(name):
        if one["kind"] not in ("StatefulSet", "Deployment"):
            continue
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"], container["name"]
            assert "limits" in container["resources"] and "livenessProbe" in container
    found = containers(name)
    front = found.get("gateway") or found["server"]
    assert front["readinessProbe"]["httpGet"]["path"] == "/readyz"  # a frame was made a moment ago
    if triton := found.get("triton"):
        assert triton["livenessProbe"]["exec"]["command"][-1] == "triton"  # makes a frame; health lies before 25.12
        start = triton["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 1800  # TensorRT builds engines
        assert "ports" not in triton
    drain = int(front["lifecycle"]["preStop"]["exec"]["command"][1])
    assert the(name, "StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain + 25


def test_gpus_s3_and_volumes_arrive_where_they_are_used():
    triton = containers("gpu-s3-keda")["triton"]
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == 2 and "memory" in triton["resources"]["limits"]
    variables = {one["name"]: one.get("value") for one in triton["env"]}
    assert variables["LIPSYNC_REPOSITORY"].startswith("s3://") and variables["LIPSYNC_GPU_CONFIGS"] == "cuda"
    assert triton["envFrom"] == [{"secretRef": {"name": "lipsync-s3"}}]
    server = containers("cpu-pvc-hpa")["server"]
    assert server["args"][-2:] == ["--repository", "/models"]
    assert {"name": "repository", "mountPath": "/models", "readOnly": True} in server["volumeMounts"]
    (page,) = the("gpu-s3-keda", "Deployment", "talk-page")["spec"]["template"]["spec"]["containers"]
    assert "--server=grpcs://talk:8001" in page["args"]


def test_only_the_gateways_ports_are_reached():
    for name in ("cpu", "gpu", "cpu-pvc-hpa"):
        (rule,) = the(name, "NetworkPolicy")["spec"]["ingress"]
        assert [port["port"] for port in rule["ports"]] == ["http", "grpc", "monolithic"]
        names = {port["name"] for one in containers(name).values() for port in one.get("ports", [])}
        assert names == {"http", "grpc", "monolithic"}
    (rule,) = the("cpu-pvc-hpa", "NetworkPolicy")["spec"]["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"team": "studio"}}} in rule["from"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "tpu"}, 'mode is "tpu"; allowed is cpu or gpu'),
        ({"repository": {"from": "s3", "url": "s3://x/y"}}, "needs mode gpu"),
        ({"mode": "gpu", "repository": {"from": "s3"}}, "repository.url is empty"),
        ({"repository": {"from": "pvc"}}, "repository.claim is empty"),
        ({"autoscaling": {"by": "magic"}}, "allowed is none, hpa or keda"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(values, message):
    with helm_python.Chart.load(str(CHART)) as chart, pytest.raises(Exception, match=re.escape(message)):
        chart.render(values=values, name="talk")


def test_the_scaling_asks_prometheus_what_it_understands(tmp_path):
    triggers = the("gpu-s3-keda", "ScaledObject")["spec"]["triggers"]
    queries = [one["metadata"]["query"] for one in triggers]
    assert 'namespace="studio",pod=~"talk-[0-9]+"' in queries[0]
    rules = [{"record": f"keda:{number}", "expr": query} for number, query in enumerate(queries)]
    groups = the("gpu-s3-keda", "PrometheusRule")["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "keda", "rules": rules}, *groups]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yaml"], check=True, capture_output=True, timeout=30)
    assert groups == read("monitoring/alerts.yaml")["groups"]


def test_the_kserve_runtime_is_a_pod_that_kubernetes_takes_and_the_images_understand():
    runtime = read("kserve/runtime.yaml")
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    assert [one["name"] for one in spec["containers"]] == ["kserve-container", "triton"]
    named = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for one in spec["containers"] for mount in one["volumeMounts"]} == named
    variables = {one["name"] for one in spec["containers"][1]["env"]}
    assert variables <= set(re.findall(r"LIPSYNC_\w+", (DEPLOY / "docker/triton.sh").read_text()))

"""The gateway's smaller parts: callers, settings, names, the monolithic descriptors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from client_fake import running as serving
from google.protobuf import descriptor_pb2
from test_gateway_tokens import Triton, frames, gateway, get

from lipsync_client.settings import SettingsError
from lipsync_server.cli.gateway import _aliases, _settings
from lipsync_server.gateway import monolithic_proto
from lipsync_server.gateway.callers import Callers, host_of
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.settings import GatewaySettings


def test_a_caller_has_its_limit_and_all_have_one_together() -> None:
    callers = Callers(2, 3)
    with callers.admitted("a"), callers.admitted("a"):
        with pytest.raises(Refused, match=r"^\[overloaded\] 2 requests of this caller"), callers.admitted("a"):
            pass
        with callers.admitted("b"):
            with pytest.raises(Refused, match=r"^\[overloaded\] 3 requests are open"), callers.admitted("b"):
                pass
            assert callers.open == 3
    assert callers.open == 0
    with pytest.raises(ZeroDivisionError), callers.admitted("a"):
        raise ZeroDivisionError
    assert callers.open == 0


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:4000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:4000", "::1"),
        ("ipv6:[::1]:4000", "::1"),
        ("unix:", "unix:"),
    ],
)
def test_a_caller_is_the_same_on_every_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_the_descriptors_are_those_that_protoc_makes(tmp_path: Path) -> None:
    folder = Path(monolithic_proto.__file__).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={tmp_path}/set"]
    subprocess.run([*command, monolithic_proto.FILE], check=True, timeout=60)
    (made,) = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    for message in made.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert made == monolithic_proto.DESCRIPTOR


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, r"gateway\.upstreams is \(\); allowed is one or several addresses"),
        ({"upstreams": ["nonsense"]}, r"gateway\.upstreams is"),
        ({"upstreams": ["a:1"], "grpc_port": -1}, r"gateway\.grpc_port is -1; allowed is a port number"),
        ({"upstreams": ["a:1"], "patience_s": 0}, r"gateway\.patience_s is 0; allowed is seconds above 0"),
        ({"upstreams": ["a:1"], "nothing": 1}, r"unknown key gateway\.nothing"),
        ([], r"gateway holds \[\]"),
    ],
)
def test_wrong_settings_are_told_by_name(values: object, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        GatewaySettings.from_dict(values)


def test_options_go_before_the_file(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("gateway: {upstreams: ['a:1'], http_port: 9000, aliases: {sanders: demo}}\nbind: 0.0.0.0\n")
    settings = _settings(config, {"upstreams": ("b:2",), "grpc_port": 7})
    assert (settings.upstreams, settings.http_port, settings.grpc_port) == (("b:2",), 9000, 7)
    assert (settings.aliases, settings.bind) == ({"sanders": "demo"}, "127.0.0.1")


def test_the_gateway_is_not_its_own_upstream() -> None:
    with pytest.raises(SettingsError, match="cannot be its own upstream"):
        _settings(None, {"upstreams": ("127.0.0.1:8001",)})


def test_aliases_are_pairs() -> None:
    assert _aliases(["sanders=demo", "x=y"]) == {"sanders": "demo", "x": "y"}
    for wrong in ("sanders", "=demo", "sanders="):
        with pytest.raises(SettingsError, match="allowed is NAME=AVATAR"):
            _aliases([wrong])


@pytest.mark.parametrize(("fps", "slow"), [(1e-9, 0.0), (1e9, 4.0)])
def test_frames_that_come_later_than_they_are_shown_are_counted(tmp_path, monkeypatch, fps, slow) -> None:
    """Shown for ages, no frame is late; shown for a nanosecond, each is."""
    monkeypatch.setattr("lipsync_server.gateway.gateway.FPS", fps)

    async def main(triton: Triton) -> str:
        async with gateway(triton, tmp_path / "tokens.yaml") as at:
            assert await frames(at.grpc, None) == 4
            return (await get(f"http://{at.http}/metrics"))[2]

    with serving(Triton()) as triton:
        text = asyncio.run(main(triton))
    assert f"lipsync_gateway_slow_frames_total {slow}" in text
    assert "lipsync_gateway_frames_total 4.0" in text

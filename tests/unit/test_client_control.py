"""Names, keys and states of the control side; the calls themselves are tested against a real server."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from client_fake import FakeServer, running

from lipsync_client import Control, ControlDenied, InvalidRequest, ServerUnavailable, Timeout, wire
from lipsync_client.control.control import KEY_HEADER, AvatarState, ModelState, avatars_in, find_key


def models(**states: str) -> list[ModelState]:
    """Models with a state, or "state: reason"."""
    return [ModelState(name, *(f"{text}: ".split(": ")[:2])) for name, text in states.items()]


def test_avatars_are_the_models_with_a_lipsync_model() -> None:
    found = avatars_in(
        models(
            mel_preprocess="READY",
            lipsync="READY",
            lipsync_ensemble="READY",
            lipsync_visual="READY",
            lipsync_visual_ensemble="READY",
            anna_lipsync="",
            anna="",
            ben_lipsync="UNAVAILABLE: unet.onnx is broken",
            ben="UNAVAILABLE: depends on ben_lipsync",
            zoe_lipsync="UNAVAILABLE: unloaded",
            zoe="UNAVAILABLE: unloaded",
            lost_lipsync="READY",
        )
    )
    assert found == [
        AvatarState("anna", False, ""),
        AvatarState("ben", False, "unet.onnx is broken"),
        AvatarState("demo", True, ""),
        AvatarState("lost", False, "its ensemble 'lost' is missing"),
        AvatarState("zoe", False, ""),
    ]


def test_what_was_never_loaded_is_told_from_what_was_unloaded() -> None:
    found = avatars_in(
        models(
            anna_lipsync="", anna="",
            zoe_lipsync="UNAVAILABLE: unloaded", zoe="UNAVAILABLE: unloaded",
            ben_lipsync="UNAVAILABLE: unet.onnx is broken", ben="",
            cleo_lipsync="UNLOADING", cleo="UNAVAILABLE: unloaded",
        )
    )  # fmt: skip
    assert [one.phase for one in found] == ["not loaded", "failed", "unloading", "unloaded"]


def test_models_of_an_avatar() -> None:
    assert (wire.ensemble_of("demo"), wire.lipsync_of("demo")) == ("lipsync_ensemble", "lipsync")
    assert (wire.ensemble_of("anna"), wire.lipsync_of("anna")) == ("anna", "anna_lipsync")


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private file with a control key, as a server makes it."""
    monkeypatch.delenv("LIPSYNC_CONTROL_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "cache/lipsync/control.key"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text("from-the-file\n")
    return path


def test_the_key_comes_from_the_environment_or_the_private_file(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_key() == "from-the-file"
    monkeypatch.setenv("LIPSYNC_CONTROL_KEY", "from-the-environment")
    assert find_key() == "from-the-environment"
    monkeypatch.delenv("LIPSYNC_CONTROL_KEY")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_key() is None
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "cache/lipsync").rename(tmp_path / "home/.cache/lipsync")
    assert find_key() == "from-the-file"


@pytest.mark.parametrize(
    ("url", "file_is_sent", "variable_is_sent"),
    [
        ("127.0.0.1:8001", True, True),
        ("grpc://localhost:9", True, True),
        ("[::1]:8001", True, True),
        ("grpcs://localhost", True, True),
        ("grpcs://lipsync.example", False, True),
        ("gpu7:8001", False, False),
        ("grpc://10.0.0.7", False, False),
    ],
)
def test_a_key_is_for_the_machine_that_it_was_made_on(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, url: str, file_is_sent: bool, variable_is_sent: bool
) -> None:
    assert (find_key(url) is not None) == file_is_sent
    monkeypatch.setenv("LIPSYNC_CONTROL_KEY", "from-the-environment")
    assert (find_key(url) is not None) == variable_is_sent


def test_a_key_file_that_others_can_read_is_refused_where_a_key_is_needed(key_file: Path) -> None:
    for mode in (0o640, 0o604):
        key_file.chmod(mode)
        with Control("127.0.0.1:1", timeout=5) as control:
            with pytest.raises(ServerUnavailable):  # this one needs none
                control.status()
            with pytest.raises(ControlDenied, match=f"mode 0{mode:o}, .* `chmod 600 {key_file}`") as refusal:
                control.models()
        assert "from-the-file" not in str(refusal.value)


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key_file: Path) -> None:
    key_file.write_text("two\nlines")
    for given in (None, "a key"):
        with (
            Control("127.0.0.1:1", key=given) as control,
            pytest.raises(InvalidRequest, match="without spaces") as raised,
        ):
            control.models()
        assert not any(secret in str(raised.value) for secret in ("two", "a key"))


def test_a_load_has_a_time_of_its_own_and_questions_do_not_wait_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, float] = {}
    with Control("127.0.0.1:1", key="k", timeout=3, load_timeout=600) as control:
        for name in ("load_model", "unload_model", "get_model_repository_index", "is_model_ready"):
            take = lambda *values, name=name, client_timeout, **more: asked.update({name: client_timeout})  # noqa: E731
            monkeypatch.setattr(control._grpc, name, take)
        monkeypatch.setattr(control, "models", lambda: models(anna_lipsync="", anna=""))
        control.load("anna")
        control.unload("anna")
        control.ready("anna")
    assert asked == {"load_model": 600, "unload_model": 600, "is_model_ready": 3}


def test_one_that_manages_a_server_finds_it_again_within_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Client:
        def __init__(self, target: str, *, creds: object, channel_args: list[tuple[str, int]]) -> None:
            seen.append(max(value for name, value in channel_args if "reconnect_backoff" in name))

        def register_plugin(self, plugin: object) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient", Client)
    for manages in (False, True):
        with Control("127.0.0.1:1", manages=manages):
            pass
    assert seen == [2000, 300]


class Restricted(grpc.ServerInterceptor):
    """Refuses control calls as Triton does, and keeps the keys that arrive."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []

    def intercept_service(self, continuation, details):
        self.keys.append(dict(details.invocation_metadata).get(KEY_HEADER))
        text = f"This protocol is restricted, expecting header '{KEY_HEADER}'"
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, text)
        )


def test_no_key_reaches_another_server_and_the_refusal_says_why(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is here; `ipv4:` is an address whose place is not known."""
    restricted = Restricted()
    with running(FakeServer(), interceptors=[restricted]) as fake:
        elsewhere = f"ipv4:{fake.url}"
        for variable in ("", "from-the-environment"):
            monkeypatch.setenv("LIPSYNC_CONTROL_KEY", variable)
            with Control(elsewhere) as control:
                for call in (control.models, lambda: control._load("anna", "anna")):
                    with pytest.raises(ControlDenied, match="is not sent to other machines unencrypted"):
                        call()
        with Control(fake.url) as control, pytest.raises(ControlDenied, match="run as the user who started"):
            control.models()
        with Control(elsewhere, key="given-for-it") as control, pytest.raises(ControlDenied):
            control.models()
    assert restricted.keys == [None] * 4 + ["from-the-environment", "given-for-it"]


def test_errors_are_pythons_own_kinds_too() -> None:
    assert issubclass(ServerUnavailable, ConnectionError)
    assert issubclass(Timeout, TimeoutError)
    assert issubclass(InvalidRequest, ValueError)

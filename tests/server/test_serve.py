"""`lipsync serve`: starts, tells clearly what is wrong, stops and leaves nothing behind.

A tiny repository keeps starts short: `identity` works, `broken` raises while it loads, each with an ensemble.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
import yaml
from tritonclient.utils import InferenceServerException

from conftest import eventually
from lipsync_server import home
from lipsync_server.serving import (
    ConfigError,
    Ports,
    ServerConfig,
    ServingError,
    Supervisor,
    TritonServer,
    environment,
    leftovers,
)
from lipsync_server.serving.control_key import control_key
from lipsync_server.serving.model_configs import write_configs

FREE = Ports(0, 0, 0)
MINE = f"_{os.getpid()}_"  # in the names of what servers of these tests own
IDENTITY = ServerConfig(ports=FREE, load=("identity",), required=("identity",))

CONFIG = """
name: "{name}" backend: "python" max_batch_size: 0
input [{{ name: "X" data_type: TYPE_FP32 dims: [-1] }}]
output [{{ name: "Y" data_type: TYPE_FP32 dims: [-1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""
ENSEMBLE = """
name: "{name}_ensemble" platform: "ensemble" max_batch_size: 0
input [{{ name: "X" data_type: TYPE_FP32 dims: [-1] }}]
output [{{ name: "Y" data_type: TYPE_FP32 dims: [-1] }}]
ensemble_scheduling {{ step [{{
  model_name: "{name}" model_version: -1 input_map {{ key: "X" value: "X" }} output_map {{ key: "Y" value: "Y" }}
}}] }}
"""
SOURCES = {
    "identity": """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                inputs = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
                if len(inputs[0]) == 3:
                    import imported_late
                return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", x)]) for x in inputs]
        """,
    "broken": """
        class TritonPythonModel:
            def initialize(self, args):
                raise ValueError("footage.jpegs is truncated")
        """,
    "talkative": """
        import sys

        class TritonPythonModel:
            def initialize(self, args):
                for _ in range(300_000):
                    sys.stderr.write("the same again\\n")
                for number in range(300_000):
                    sys.stderr.write(f"trouble {number}\\n")

            def execute(self, requests):
                pass
        """,
    "slow": """
        import time

        class TritonPythonModel:
            def initialize(self, args):
                time.sleep(60)
        """,
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """A cache folder of these tests' own, and no key in the environment."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("LIPSYNC_CONTROL_KEY", raising=False)
        yield folder / "lipsync"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, source in SOURCES.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(name=name))
        (folder / name / "1" / "model.py").write_text(textwrap.dedent(source))
        (folder / f"{name}_ensemble" / "1").mkdir(parents=True)
        (folder / f"{name}_ensemble" / "config.pbtxt").write_text(ENSEMBLE.format(name=name))
    (folder / "identity/1/imported_late.py").touch()
    return folder


@pytest.fixture(scope="module")
def running(repository) -> Iterator[TritonServer]:
    """One server for all tests that only look: an avatar that works, one that does not, two instances."""
    config = ServerConfig(
        ports=FREE,
        load=("identity_ensemble", "broken_ensemble"),
        required=("identity_ensemble",),
        instances={"identity": 2},
    )
    before = traces(MINE)
    with TritonServer(repository, config) as server:
        yield server
    assert traces(MINE) == before, "the shared server left something behind"


@pytest.fixture(scope="module")
def client(running) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(running.grpc_url) as connected:
        yield connected


def traces(part: str) -> list[str]:
    """Processes and shared memory whose name contains `part`; names tell the process that owns a server."""
    programs = (leftovers.SERVER, leftovers.STAGE)
    processes = [f"{program} {pid} {name}" for program in programs for pid, name in leftovers.processes(program)]
    found = [*processes, *map(str, leftovers.SHARED_MEMORY.glob("lipsync_*"))]
    return sorted(trace for trace in found if part in trace)


def echo(client: grpc.InferenceServerClient, model: str, count: int = 5) -> bool:
    values = np.arange(count, dtype=np.float32)
    tensor = grpc.InferInput("X", values.shape, "FP32").set_data_from_numpy(values)
    return np.array_equal(client.infer(model, [tensor], client_timeout=20).as_numpy("Y"), values)


# A running server


def test_broken_avatar_has_a_reason_and_the_others_are_served(running, client):
    assert list(running.failures) == ["broken_ensemble"]
    assert "its step broken" in running.failures["broken_ensemble"]
    assert "footage.jpegs is truncated" in running.failures["broken_ensemble"]
    assert echo(client, "identity_ensemble")


def test_instance_counts_reach_the_server(client):
    assert client.get_model_config("identity").config.instance_group[0].count == 2


def test_grpc_control_needs_the_key(running, client):
    for call in (client.get_model_repository_index, lambda **options: client.load_model("identity", **options)):
        with pytest.raises(InferenceServerException, match="lipsync-control"):
            call()
        call(headers={"triton-grpc-protocol-lipsync-control": running.control_key})


def test_http_control_needs_the_key(running):
    url = f"http://{running.http_url}/v2/repository/index"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, data=b"{}"), timeout=10)
    assert refused.value.code == 403
    allowed = urllib.request.Request(url, data=b"{}", headers={"lipsync-control": running.control_key})
    assert b"identity" in urllib.request.urlopen(allowed, timeout=10).read()


def test_key_is_not_in_the_process_list(running):
    assert running.key_hidden
    arguments = Path(f"/proc/{running.pid}/cmdline").read_text()
    assert "lipsync-control=*" in arguments
    assert running.control_key not in arguments


def test_serving_writes_nothing_into_the_models(running, client, repository):
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in repository.rglob("*")}

    before = state()
    headers = {"triton-grpc-protocol-lipsync-control": running.control_key}
    client.unload_model("identity_ensemble", headers=headers)
    client.unload_model("identity", headers=headers)
    eventually(lambda: not client.is_model_ready("identity"))
    client.load_model("identity_ensemble", headers=headers)
    assert echo(client, "identity_ensemble", count=3), "Python would write byte code for a module met only now"
    assert state() == before


def test_other_counts_leave_a_running_servers_configs(running, repository):
    own = set(repository.glob("*/configs/*"))
    assert own
    assert write_configs(repository, {"identity": 3})
    assert set(repository.glob("*/configs/*")) > own
    assert write_configs(repository, {"identity": 1}) is None, "as its config says: nothing to write"
    assert set(repository.glob("*/configs/*")) == own


def test_metrics_answer(running):
    assert b"nv_inference" in urllib.request.urlopen(running.metrics_url, timeout=10).read()


# Ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_a_background_shell_stops_cleanly(repository, tmp_path, number):
    with Background(repository, tmp_path) as shell:
        shell.wait_until_serving()
        os.kill(shell.pid, number)
        assert shell.exit_status() == 0
        assert not traces(f"_{shell.pid}_")
        assert "Traceback" not in shell.read("err")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", shell.grpc_port), timeout=5)


def test_signal_while_models_load_stops_at_once(repository, tmp_path):
    with Background(repository, tmp_path, "slow") as shell:
        eventually(lambda: any(leftovers.STAGE in trace for trace in traces(f"_{shell.pid}_")))
        os.kill(shell.pid, signal.SIGTERM)
        assert shell.exit_status() == 0
        assert not traces(f"_{shell.pid}_")


def test_server_that_dies_is_started_again_and_leaves_nothing(repository, tmp_path):
    with Background(repository, tmp_path) as shell:
        shell.wait_until_serving()
        server, stage = (shell.process(program) for program in (leftovers.SERVER, leftovers.STAGE))
        before = set(leftovers.SHARED_MEMORY.glob(f"*_{shell.pid}_*"))
        for pid in (server, stage):  # a killed stage cannot remove its shared memory
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: "serves again" in shell.read("err"))
        assert "Triton has ended, killed by signal 9: it is started again now." in shell.read("err")
        assert not before & set(leftovers.SHARED_MEMORY.glob(f"*_{shell.pid}_*"))
        with grpc.InferenceServerClient(f"127.0.0.1:{shell.grpc_port}") as connected:
            assert echo(connected, "identity")
        os.kill(shell.process(leftovers.SERVER), signal.SIGKILL)
        eventually(lambda: shell.read("err").count("has ended") == 2)
        os.kill(shell.pid, signal.SIGTERM)  # while it is started again
        assert shell.exit_status() == 0
        assert not traces(f"_{shell.pid}_")


def test_what_cannot_be_started_again_says_why_and_is_tried_later(repository, tmp_path):
    shutil.copytree(repository / "identity", tmp_path / "identity", ignore=shutil.ignore_patterns("configs"))
    source, said = tmp_path / "identity/1/model.py", []
    works = source.read_text()
    config = ServerConfig(ports=FREE, gateway=False, load=("identity",), required=("identity",))
    with Supervisor(tmp_path, config, said.append) as supervisor:
        url = supervisor.start().triton.grpc_url
        source.write_text(f"raise ValueError('the disk has gone')\n{works}")
        os.kill(supervisor.triton.pid, signal.SIGKILL)
        eventually(lambda: supervisor.heal() or len(said) == 3)
        for line, delay in zip(said[1:], ("now", "in 1 s"), strict=True):
            assert re.match(r"Triton cannot be started again: identity cannot be served: .*the disk has gone", line)
            assert line.endswith(f"The next attempt is {delay}.")
            assert "\n" not in line
        assert supervisor.triton is None
        source.write_text(works)
        eventually(lambda: supervisor.heal() or "serves again" in said[-1])
        with grpc.InferenceServerClient(url) as connected:
            assert echo(connected, "identity")
        log = supervisor.log_path.read_text()
    assert "the disk has gone" in log, "the log keeps what came before"


def test_next_start_sweeps_after_a_killed_server_and_spares_the_living(client, repository, tmp_path):
    with Background(repository, tmp_path) as shell:
        shell.wait_until_serving()
        os.kill(shell.pid, signal.SIGSTOP)  # it must not clean up itself
        os.kill(shell.process(leftovers.SERVER), signal.SIGKILL)
        os.kill(shell.pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{shell.pid}").exists())
        assert traces(f"_{shell.pid}_"), "nothing was left that could be swept"
        with TritonServer(repository, IDENTITY):
            assert not traces(f"_{shell.pid}_")
    assert echo(client, "identity_ensemble")


def test_server_ends_with_a_crashed_owner(repository):
    program = (
        "import os, sys; from pathlib import Path; from lipsync_server.serving import *\n"
        "config = ServerConfig(ports=Ports(0, 0, 0), load=('identity',), required=('identity',))\n"
        "TritonServer(Path(sys.argv[1]), config).start(); print(os.getpid()); sys.stdout.flush(); os._exit(1)"
    )
    command = [sys.executable, "-c", program, str(repository)]
    owner = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60).stdout.strip()
    assert owner
    eventually(lambda: not traces(f"_{owner}_"))


def test_a_stage_that_prints_without_end_fills_no_disk(repository, tmp_path):
    config = ServerConfig(ports=FREE, load=("talkative",), required=("talkative",))
    with TritonServer(repository, config, log_path=tmp_path / "server.log") as server:
        assert server.failures == {}
    text = (tmp_path / "server.log").read_text()
    assert "... the last line, repeated 299999 times\n" in text
    assert text.count("trouble ") < 100_000 and "lines left out, beyond 1000 a second" in text


def test_failed_required_model_stops_the_start(repository):
    config = ServerConfig(ports=FREE, load=("broken_ensemble", "identity"), required=("broken_ensemble",))
    server, before = TritonServer(repository, config), traces(MINE)
    with pytest.raises(ServingError, match=r"broken_ensemble cannot be served: its step broken.*truncated"):
        server.start()
    assert not traces(f" {server.pid} ")
    assert traces(MINE) == before


def test_start_that_takes_too_long_leaves_nothing(repository):
    server, before = (
        TritonServer(repository, ServerConfig(ports=FREE, load=("slow",), required=("slow",))),
        traces(MINE),
    )
    with pytest.raises(ServingError, match="did not answer in time"):
        server.start(timeout=1.5)
    assert traces(MINE) == before


# Any path


@pytest.mark.parametrize("name", ["Téléchargements x", "o'clock; $(exit) & more"])
def test_a_repository_and_a_cache_of_any_name_are_served(repository, tmp_path, monkeypatch, caplog, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name / "cache"))
    shutil.copytree(repository, tmp_path / name / "models", ignore=shutil.ignore_patterns("configs"))
    before = traces(MINE)
    with TritonServer(tmp_path / name / "models", IDENTITY) as server:
        links = [path for path in leftovers.SHARED_MEMORY.glob(f"*{MINE}*") if path.is_symlink()]
        assert sorted(path.readlink().parent.parent.name for path in links) == sorted([tmp_path.name, "lipsync"])
        with grpc.InferenceServerClient(server.grpc_url) as connected:
            assert echo(connected, "identity", count=3)
    (said,) = caplog.messages
    assert "spaces or letters beyond ASCII" in said
    assert all(str(link) in said for link in links)
    assert traces(MINE) == before


def test_a_plain_path_is_served_as_it_is(running, repository):
    arguments = Path(f"/proc/{running.pid}/cmdline").read_text().split("\0")
    assert f"--model-repository={repository}" in arguments


def test_a_stage_that_ends_before_it_can_speak_ends_the_start(repository, tmp_path, monkeypatch):
    (tmp_path / "with a space").symlink_to(repository)
    monkeypatch.setattr("lipsync_server.serving.server.safe_paths", lambda server, **paths: paths)
    monkeypatch.setattr("lipsync_server.serving.server.UNNOTICED_S", 1)
    server = TritonServer(repository, IDENTITY)
    server.repository, before = tmp_path / "with a space", traces(MINE)  # past resolving the link
    with pytest.raises(ServingError, match=r"(?s)A Python stage ended before it could say why.*stol"):
        server.start(timeout=60)
    assert traces(MINE) == before


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may look into, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
def test_a_user_without_home_or_passwd_entry_serves_what_it_cannot_write(repository, open_folder):
    models, temporary = open_folder / "models", open_folder / "tmp"
    shutil.copytree(repository, models, ignore=shutil.ignore_patterns("configs", "__pycache__"))
    models.chmod(0o755)
    temporary.mkdir()
    temporary.chmod(0o777)
    before = sorted(models.rglob("*"))
    able = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # to read this environment, not to write
    user = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *able)
    variables = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "LC_ALL": "C"}
    program = (
        "import sys; from pathlib import Path; from lipsync_server.serving import *\n"
        "config = ServerConfig(ports=Ports(0, 0, 0), load=('identity',), required=('identity',))\n"
        "with TritonServer(Path(sys.argv[1]), config) as server: print(server.log_path)"
    )
    command = [*user, sys.executable, "-c", program, str(models)]
    run = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(temporary / "lipsync-12345/cache"))
    assert sorted(models.rglob("*")) == before


# Leftovers


def test_only_names_of_dead_owners_are_swept():
    namespace, pid, start = map(int, leftovers.NAME.fullmatch(leftovers.new_name()).groups())
    dead = leftovers.SHARED_MEMORY / f"lipsync_{namespace}_{pid}_{start + 1}_900_x"  # this process id was used again
    mine = leftovers.SHARED_MEMORY / f"lipsync_{namespace}_{pid}_{start}_900_x"
    foreign = leftovers.SHARED_MEMORY / f"lipsync_{namespace + 1}_{pid}_{start + 1}_900_x"  # another container's
    link = leftovers.SHARED_MEMORY / f"lipsync_{namespace}_{pid}_{start + 1}_900_models"
    try:
        for path in (dead, mine, foreign):
            path.touch()
        link.symlink_to("/etc")
        leftovers.sweep_dead()
        assert [path.exists() for path in (dead, link, mine, foreign)] == [False, False, True, True]
        assert Path("/etc/passwd").exists()
    finally:
        for path in (dead, link, mine, foreign):
            path.unlink(missing_ok=True)


def test_servers_that_start_together_share_a_backend_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel, found = environment.find_wheel(), []
    threads = [threading.Thread(target=lambda: found.append(environment.backend_folder(wheel))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert os.access(found[0] / "python/triton_python_backend_stub", os.X_OK)
    assert [path.name for path in found[0].parent.iterdir()] == [found[0].name], "drafts are gone"


# Clear messages


def test_port_in_use_names_port_and_option(repository, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = serve("--repository", repository, "--config", settings(tmp_path), "--grpc-port", port)
    assert run.returncode == 1
    assert f"Port {port} (grpc) on 127.0.0.1 is in use" in run.stderr
    assert "--grpc-port" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_invalid_settings_are_one_sentence(tmp_path):
    (tmp_path / "bad.yaml").write_text("ports: {http: 80000}")
    run = serve("--config", tmp_path / "bad.yaml")
    assert run.returncode == 1
    assert run.stderr == ("bad.yaml: ports.http is 80000; allowed is a port number from 0 (any free one) to 65535.\n")


def test_numpy_2_is_refused(repository, monkeypatch):
    monkeypatch.setattr(environment, "numpy_version", lambda: "2.1.3")
    with pytest.raises(ServingError, match=r"numpy is 2\.1\.3.*pip install 'numpy<2'"):
        TritonServer(repository, IDENTITY).start()


def test_missing_libpython_names_the_package(repository, monkeypatch):
    monkeypatch.setattr(environment, "missing_libraries", lambda program, variables: ["libpython3.11.so.1.0"])
    with pytest.raises(ServingError, match=r"libpython3\.11\.so\.1\.0 is missing.*apt-get install libpython3\.11`"):
        TritonServer(repository, IDENTITY).start()


def test_missing_libraries_are_what_the_loader_does_not_find(tmp_path):
    ldd = tmp_path / "ldd"
    ldd.write_text("#!/bin/sh\necho '\tlibpython3.9.so.1.0 => not found'\necho '\tlibc.so.6 => /lib/libc.so.6 (0x1)'\n")
    ldd.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert environment.missing_libraries(Path("/bin/true"), variables) == ["libpython3.9.so.1.0"]


def test_unsupported_python_is_refused(monkeypatch):
    monkeypatch.setattr(environment, "python_version", lambda: (3, 13))
    with pytest.raises(ServingError, match=r"Python 3\.13 .* use Python 3\.10, 3\.11 or 3\.12"):
        environment.find_wheel()


def test_missing_server_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServingError, match="pip install"):
        environment.find_wheel()


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no model repository"), (".", "holds no models")])
def test_empty_repository_says_how_to_fill_it(tmp_path, folder, message):
    with pytest.raises(ServingError, match=message):
        TritonServer(tmp_path / folder, IDENTITY).start()


def test_unknown_model_lists_the_known(repository):
    with pytest.raises(ServingError, match=r"'nobody' is not in .*broken, .*identity"):
        TritonServer(repository, ServerConfig(ports=FREE, load=("nobody",), required=())).start()


@pytest.mark.parametrize(("model", "message"), [("identity_ensemble", "ensemble"), ("nobody", "no model of that name")])
def test_counts_are_for_stages(repository, model, message):
    with pytest.raises(ConfigError, match=f"instances.{model}.*{message}"):
        write_configs(repository, {model: 2})


# Settings


def test_shipped_settings_are_the_defaults():
    assert ServerConfig.from_yaml(home.SETTINGS) == ServerConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prots: {}", "unknown key prots: allowed are bind, ports"),
        ("ports: {htpp: 1}", "unknown key ports.htpp: allowed are http, grpc, metrics, monolithic"),
        ("ports: 8000", "ports holds 8000; allowed is a mapping with http"),
        ("ports: {http: yes}", "ports.http is True; allowed is a port number"),
        ("ports: {http: 8001}", "uses a port twice"),
        ("gateway: 5", "gateway is 5; allowed is true, false or a mapping"),
        ("gateway: {patience: 5}", "unknown key gateway.patience: allowed are"),
        ("gateway: {attempts: 0}", "gateway.attempts is 0; allowed is a whole number from 1 to 10"),
        ("gateway: {grpc_port: 1}", "gateway.grpc_port is for `lipsync gateway` alone"),
        ("bind: everywhere", "bind is 'everywhere'; allowed is an IPv4 address"),
        ("load: lipsync_ensemble", "load is 'lipsync_ensemble'; allowed is a list of model names"),
        ("load: [../etc]", "load is .* allowed is a list of model names"),
        ("{load: [a], required: [b]}", "required: 'b' is not in `load`"),
        ("instances: {composite: 0}", "instances is .* count from 1 to 64"),
        ("gpus: some", "gpus is 'some'; allowed is none, all or a list"),
        ("gpus: []", "gpus is .* allowed is none, all or a list"),
        ("log: loud", "log is 'loud'; allowed is one of error, warning, info, verbose"),
        ("exit_timeout: 1.5", "exit_timeout is 1.5; allowed is whole seconds"),
        ("- a\n- b", "the file holds"),
        ("a: [", "not valid YAML"),
    ],
)
def test_invalid_settings_name_key_value_and_allowed(tmp_path, text, message):
    path = tmp_path / "server.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        ServerConfig.from_yaml(path)


@pytest.mark.parametrize("section", ["", "ports", "registry"])
@pytest.mark.parametrize("wrong", [{"wrong": 1}, 5])
def test_the_keys_that_a_sentence_offers_are_those_of_the_shipped_file(section, wrong):
    shipped = yaml.safe_load(home.SETTINGS.read_text())
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_dict({section: wrong} if section else wrong)
    offered = re.search(r"allowed (?:are|is a mapping with) (.*)\.$", str(caught.value))[1].split(", ")
    assert offered == list(shipped[section] if section else shipped)


def test_missing_settings_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        ServerConfig.from_yaml(tmp_path / "none.yaml")


# The control key


def test_key_file_is_made_private_and_kept(tmp_path):
    config = ServerConfig(control_key_file=str(tmp_path / "key"))
    made = control_key(config)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert len(made) >= 40
    assert control_key(config) == made


def test_servers_that_start_together_agree_on_a_key(tmp_path):
    config, keys = ServerConfig(control_key_file=str(tmp_path / "key")), []
    threads = [threading.Thread(target=lambda: keys.append(control_key(config))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_key_file_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ServingError, match=r"mode 0640.*chmod 600"):
        control_key(ServerConfig(control_key_file=str(tmp_path / "key")))


def test_key_in_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_CONTROL_KEY", "from-the-environment")
    assert control_key(ServerConfig(control_key_file=str(tmp_path / "key"))) == "from-the-environment"
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("key", ["short", "with a space in it, and a comma", "x" * 300])
def test_unusable_key_is_refused(monkeypatch, key):
    monkeypatch.setenv("LIPSYNC_CONTROL_KEY", key)
    with pytest.raises(ServingError, match="16 to 256 characters"):
        control_key(ServerConfig())


# The program


def settings(folder: Path, model: str = "identity") -> Path:
    path = folder / "settings.yaml"
    path.write_text(f"ports: {{http: 0, grpc: 0, metrics: 0}}\ngateway: false\nload: [{model}]\nrequired: [{model}]\n")
    return path


def serve(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lipsync_client.cli.main", "serve", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Background:
    """`lipsync serve` in the background of a non-interactive shell, which starts it with SIGINT ignored."""

    def __init__(self, repository: Path, folder: Path, model: str = "identity") -> None:
        self._folder = folder
        script = 'cd "$0" && { "$@" >out 2>err & echo $! >pid; wait $!; echo $? >status; }'
        program = [sys.executable, "-m", "lipsync_client.cli.main", "serve"]
        options = ["--repository", str(repository), "--config", str(settings(folder, model))]
        self._shell = subprocess.Popen(["sh", "-c", script, str(folder), *program, *options])

    def __enter__(self) -> Background:
        eventually(lambda: self.read("pid"))
        self.pid = int(self.read("pid"))
        return self

    def read(self, name: str) -> str:
        """What it has written so far: out, err, pid, or its exit status; whole lines only."""
        path = self._folder / name
        text = path.read_text() if path.exists() else ""
        return text if text.endswith("\n") else ""

    def wait_until_serving(self) -> None:
        eventually(lambda: self.read("out") or self.read("status"))
        assert self.read("out").startswith("Serving identity at grpc 127.0.0.1:"), self.read("err")
        self.grpc_port = int(self.read("out").partition("grpc 127.0.0.1:")[2].partition(",")[0])

    def exit_status(self) -> int:
        eventually(lambda: self.read("status"))
        return int(self.read("status"))

    def process(self, program: str) -> int:
        (pid,) = [pid for pid, name in leftovers.processes(program) if f"_{self.pid}_" in name]
        return pid

    def __exit__(self, *exception: object) -> None:
        if self._shell.poll() is None:
            if Path(f"/proc/{self.pid}").exists():
                os.kill(self.pid, signal.SIGKILL)  # the server then ends by itself
            self._shell.wait(20)

"""One Triton server as a context manager."""

from __future__ import annotations

import compileall
import contextlib
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from lipsync_client.folders import cache_folder
from lipsync_composite import mark
from lipsync_server import home, rotating_file
from lipsync_server.rotating_file import RotatingFile
from lipsync_server.serving import environment, leftovers
from lipsync_server.serving.child import Child
from lipsync_server.serving.command import server_arguments
from lipsync_server.serving.control_key import control_key, hide_in_process_list
from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.log_lines import PER_SECOND, LogLines
from lipsync_server.serving.model_configs import check_models, write_configs
from lipsync_server.serving.network import TritonApi, choose_ports
from lipsync_server.serving.safe_path import safe_paths
from lipsync_server.serving.server_settings import Ports, ServerConfig
from lipsync_server.serving.stages import StageWatch

UNNOTICED_S = 10  # seconds: Triton notices within 2 that a stage has ended, or never
LOG_BYTES, OLDER_LOGS = 20 << 20, 2  # of the log file, and how many older ones are kept
IDLE_BEFORE_KILL = 4  # seconds; a clean end takes 1 to 2 after the last stage has gone
# Kept out of the console: Triton sees a version of the model in every folder, and complains of a missing GPU.
NOISE = ("ignore version directory 'avatar'", "ignore version directory 'configs'")
# The signal is ours.
STOPPING_NOISE = ("Signal (15) received", "Signal (2) received")
NO_GPU_NOISE = ("CUDA driver version", "CudaDriverHelper", "no CUDA-capable device", "pinned system memory")


def remove_log(path: Path) -> None:
    """Remove a server's log, with its older files."""
    rotating_file.remove(path, OLDER_LOGS)


class TritonServer:
    """A Triton server on one model repository; it ends with this object, and with this process.

        with TritonServer(Path("model_repository"), ServerConfig(ports=Ports(0, 0, 0))) as server:
            client = InferenceServerClient(server.grpc_url)

    Attributes, once started:
        grpc_url, http_url: host:port, as Triton's clients want them; with an inference key nobody answers at http_url.
        metrics_url: a whole URL.
        control_key: the secret for model control.
        log_path: what the server prints.
        failures: the models of `config.load` that are not served, each with the reason.
        key_hidden: whether other users cannot read the key in the process list.
    """

    def __init__(
        self,
        repository: Path,
        config: ServerConfig | None = None,
        *,
        log_path: Path | None = None,
        echo: bool = False,
        append: bool = False,
        inference_key: str | None = None,
    ) -> None:
        """
        Args:
            repository: folder of models.
            config: settings; the defaults of `ServerConfig` if absent.
            log_path: replaced at each start. If absent, a file in the cache folder that a clean stop removes.
            echo: also print the log on standard error.
            append: keep what the log file holds already.
            inference_key: a secret that inference needs then, as the header `lipsync-inference` over gRPC. The server
                has no HTTP port then.
        """
        self.repository = Path(repository).resolve()
        self.config = config or ServerConfig()
        self.log_path = log_path
        self._keep_log = log_path is not None
        self.failures: dict[str, str] = {}
        self.key_hidden = False
        self.gpu_advice: str | None = None  # why a GPU that is there is not used
        self._echo = echo
        self._append = append
        self._inference_key = inference_key
        self._name = ""
        self._child: Child | None = None
        self._api: TritonApi | None = None
        self._log: RotatingFile | None = None
        self._lines = LogLines(self._write_line, None if self.config.log == "verbose" else PER_SECOND)
        self._is_ready = False
        self._tail: deque[str] = deque(maxlen=30)

    def __enter__(self) -> TritonServer:
        return self if self._child else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def exit_status(self) -> int | None:
        """None while the server runs; negative: the signal that ended it."""
        return None if self._child is None else self._child.exit_status

    def start(self, timeout: float = 180, meanwhile: Callable[[], None] = lambda: None) -> TritonServer:
        """Start the server and wait until the required models are ready.

        Args:
            timeout: seconds that this may take.
            meanwhile: called ten times a second.

        Raises:
            ConfigError, ServingError: it cannot start; nothing of it is left running.
        """
        if self._child is not None:
            raise RuntimeError("a TritonServer starts once: make another")
        deadline = time.monotonic() + timeout
        try:
            command, variables = self._prepare()
            assert self.log_path is not None
            self._log = RotatingFile(self.log_path, LOG_BYTES, OLDER_LOGS, replace=not self._append)
            self._child = Child(command, variables, self._lines.add)
            self._wait_until_ready(deadline, meanwhile)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and everything it started. Safe to call twice, and again if it was interrupted."""
        ends_in_order = self._is_ready and self.exit_status is None
        if self._child is not None:
            with contextlib.suppress(ServingError):  # it was never launched
                self._end(self._child)
            self._lines.close()
        if self._name:
            leftovers.sweep(self._name)
        if self._api:
            self._api.close()
        if self._log:
            self._log.close()
        if ends_in_order and not self._keep_log and self.log_path is not None:
            remove_log(self.log_path)
        self._is_ready = False

    def kill(self) -> None:
        """End it at once: what it works on is lost."""
        self._is_ready = self._echo = False  # its stages complain
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
        self.stop()

    def last_lines(self) -> str:
        """The end of what the server printed."""
        return "\n".join(self._tail)

    def _prepare(self) -> tuple[list[str], dict[str, str]]:
        """Check and lay out everything that the server needs; returns its command and environment variables."""
        wheel = environment.find_wheel()
        environment.check_numpy()
        self._with_gpu = environment.use_gpu(self.config.gpus)
        variables = environment.server_environment(wheel, self.config.gpus)
        variables.pop(self.config.control_key_env, None)  # Python stages have no use for it
        variables[mark.VARIABLE] = str(self.config.mark_synthetic).lower()  # for composite
        environment.check_libraries(wheel, variables)
        self.gpu_advice = environment.check_gpu(self.config, self._with_gpu, variables)
        check_models(self.repository, self.config.load)
        self.control_key = control_key(self.config)
        leftovers.sweep_dead()
        ports = self._free_ports()
        host = "127.0.0.1" if self.config.bind == "0.0.0.0" else self.config.bind  # noqa: S104
        self.http_url, self.grpc_url = f"{host}:{ports.http}", f"{host}:{ports.grpc}"
        self.metrics_url = f"http://{host}:{ports.metrics}/metrics"
        self._api = TritonApi(self.grpc_url, self.control_key)
        if self.log_path is None:
            self.log_path = cache_folder() / f"server-{ports.grpc}.log"
        config_name = write_configs(self.repository, self.config.instances, self.config.gpu_configs)
        for folder in (self.repository, home.BACKENDS):  # else the stages write byte code into the folders
            compileall.compile_dir(folder, quiet=2)
        self._name = leftovers.new_name()
        paths = safe_paths(self._name, models=self.repository, backends=environment.backend_folder(wheel))
        arguments = server_arguments(
            self.config,
            ports=ports,
            repository=paths["models"],
            backends=paths["backends"],
            key=self.control_key,
            inference_key=self._inference_key,
            shared_memory=self._name,
            config_name=config_name,
            with_gpu=self._with_gpu,
        )
        return [str(wheel.binary), *arguments], variables

    def _free_ports(self) -> Ports:
        """Those of the settings, if they are free, and others where they are 0. Raises ServingError."""
        used = vars(self.config.ports)
        needed = ("http", "grpc", "metrics") if self._inference_key is None else ("grpc", "metrics")
        return Ports(**{**used, **choose_ports(self.config.bind, {name: used[name] for name in needed})})

    def _write_line(self, line: str) -> None:
        """One line of the log."""
        for key in self._keys():
            line = line.replace(key, "***")
        self._tail.append(line.rstrip("\n"))
        with contextlib.suppress(OSError, ValueError):  # a full disk; closed after the end
            assert self._log is not None
            self._log.write(line)
        hushed = (*NOISE, *STOPPING_NOISE, *(() if self._with_gpu else NO_GPU_NOISE))
        if self._echo and not any(noise in line for noise in hushed):
            with contextlib.suppress(OSError, ValueError):  # the reader of our standard error may have gone
                sys.stderr.write(line)

    def _keys(self) -> list[str]:
        return [self.control_key, *([self._inference_key] if self._inference_key else [])]

    def _hide_keys(self) -> bool:
        hidden = [hide_in_process_list(self.pid, key) for key in self._keys()]
        return all(hidden)

    def _wait_until_ready(self, deadline: float, meanwhile: Callable[[], None]) -> None:
        assert self._api is not None
        stages = StageWatch(self.pid)
        while not (self._api.is_live() and self._last_port_is_open()):
            if self.exit_status is not None:
                raise ServingError(
                    f"The server ended while starting (exit status {self.exit_status}); "
                    f"its last lines, also in {self.log_path}:\n{self.last_lines()}"
                )
            stages.dead(time.monotonic())
            if stages.dead_for(time.monotonic()) > UNNOTICED_S:
                raise ServingError(
                    f"A Python stage ended before it could say why; the server's last lines, also in {self.log_path}:\n"
                    f"{self.last_lines()}"
                )
            if time.monotonic() > deadline:
                raise ServingError(f"The server did not answer in time; its log is {self.log_path}.")
            if not self.key_hidden and self._has_read_its_arguments():
                self.key_hidden = self._hide_keys()
            meanwhile()
            time.sleep(0.1)
        # Triton answers once it has tried to load all models.
        self.key_hidden = self.key_hidden or self._hide_keys()
        for model in self.config.load:
            if not self._api.is_ready(model):
                # Only a second try tells why: the index knows no reason for an ensemble or an unreadable config.
                reason = self._api.load(model, timeout=max(1, deadline - time.monotonic()))
                if reason:
                    self.failures[model] = reason
        for model in self.config.required:
            if model in self.failures:
                raise ServingError(f"{model} cannot be served: {self.failures[model]}. The log is {self.log_path}.")
        self._is_ready = True

    def _last_port_is_open(self) -> bool:
        """Triton opens gRPC, HTTP and metrics in this order."""
        host, _, port = self.metrics_url.removeprefix("http://").partition("/")[0].partition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
            return True
        return False

    def _has_read_its_arguments(self) -> bool:
        try:  # backends are loaded long after the arguments were copied
            return "libtriton_python.so" in Path(f"/proc/{self.pid}/maps").read_text()
        except OSError:
            return False

    def _end(self, child: Child) -> None:
        """Ask the server to end, and insist once nothing but itself is left.

        Its gRPC library may sleep 10 s on a poller when everything else has ended: tried, one time in four after
        tensors of tens of MB. When the stages are gone no request is left, so that nap is cut short.
        """
        if child.exit_status is None:
            child.signal(signal.SIGTERM)
        now = stages_seen = time.monotonic()
        deadline = now + self.config.exit_timeout + 15
        while not child.wait(0.1):
            now = time.monotonic()
            if leftovers.has_stages(self._name):
                stages_seen = now
            if now > deadline or now - stages_seen > IDLE_BEFORE_KILL:
                child.signal(signal.SIGKILL)

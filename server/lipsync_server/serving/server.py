"""One Triton server as a context manager."""

from __future__ import annotations

import compileall
import contextlib
import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType

from lipsync_client.folders import cache_folder
from lipsync_server import home
from lipsync_server.serving import environment, leftovers
from lipsync_server.serving.command import server_arguments
from lipsync_server.serving.control_key import control_key, hide_in_process_list
from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.model_configs import check_models, write_configs
from lipsync_server.serving.network import HttpApi, choose_ports
from lipsync_server.serving.safe_path import safe_paths
from lipsync_server.serving.server_settings import ServerConfig

PR_SET_PDEATHSIG = 1
UNNOTICED_S = 10  # seconds: Triton notices within 2 that a stage has ended, or never
IDLE_BEFORE_KILL = 4  # seconds; a clean end takes 1 to 2 after the last stage has gone
# Kept out of the console: Triton sees a version of the model in every folder, and complains of a missing GPU.
NOISE = ("ignore version directory 'avatar'", "ignore version directory 'configs'")
NO_GPU_NOISE = ("CUDA driver version", "CudaDriverHelper", "no CUDA-capable device", "pinned system memory")
_libc = ctypes.CDLL(None)


class TritonServer:
    """A Triton server on one model repository; it ends with this object, and with this process.

        with TritonServer(Path("model_repository"), ServerConfig(ports=Ports(0, 0, 0))) as server:
            client = InferenceServerClient(server.grpc_url)

    Attributes, once started:
        grpc_url, http_url: host:port, as Triton's clients want them.
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
    ) -> None:
        """
        Args:
            repository: folder of models.
            config: settings; the defaults of `ServerConfig` if absent.
            log_path: replaced at each start. If absent, a file in the cache folder that a clean stop removes.
            echo: also print the log on standard error.
        """
        self.repository = Path(repository).resolve()
        self.config = config or ServerConfig()
        self.log_path = log_path
        self._keep_log = log_path is not None
        self.failures: dict[str, str] = {}
        self.key_hidden = False
        self._echo = echo
        self._process: subprocess.Popen[str] | None = None
        self._pump: threading.Thread | None = None
        self._launched = threading.Event()
        self._launch_error: OSError | None = None
        self._is_ready = False
        self._tail: deque[str] = deque(maxlen=30)

    def __enter__(self) -> TritonServer:
        return self if self._pump else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while the server runs; negative: the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def start(self, timeout: float = 180) -> TritonServer:
        """Start the server and wait until the required models are ready.

        Raises:
            ConfigError, ServingError: it cannot start; nothing of it is left running.
        """
        if self._process is not None:
            raise RuntimeError("a TritonServer starts once: make another")
        command, variables = self._prepare()
        self._pump = threading.Thread(target=self._run, args=(command, variables), daemon=True)
        try:
            self._pump.start()
            self._wait_until_ready(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and everything it started. Safe to call twice."""
        if self._pump is None:
            return
        self._launched.wait(30)
        ends_in_order = self._is_ready and self.exit_status is None
        if self._process is not None and self.exit_status is None:
            self._end(self._process)
        leftovers.sweep(self._name)
        self._pump.join(10)
        self._pump = None
        if ends_in_order and not self._keep_log and self.log_path is not None:
            self.log_path.unlink(missing_ok=True)

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
        environment.check_libraries(wheel, variables)
        check_models(self.repository, self.config.load)
        self.control_key = control_key(self.config)
        leftovers.sweep_dead()
        ports = choose_ports(self.config.bind, self.config.ports)
        host = "127.0.0.1" if self.config.bind == "0.0.0.0" else self.config.bind  # noqa: S104
        self.http_url, self.grpc_url = f"{host}:{ports.http}", f"{host}:{ports.grpc}"
        self.metrics_url = f"http://{host}:{ports.metrics}/metrics"
        self._api = HttpApi(self.http_url, self.control_key)
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
            shared_memory=self._name,
            config_name=config_name,
            with_gpu=self._with_gpu,
        )
        return [str(wheel.binary), *arguments], variables

    def _run(self, command: list[str], variables: dict[str, str]) -> None:
        """Launch the server and copy what it prints until it ends.

        One thread does both because Linux sends the death signal when the *thread* that launched a process ends.
        """
        assert self.log_path is not None
        try:
            log = self.log_path.open("w", buffering=1, encoding="utf-8")
            self._process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches this process only, which then stops the server in order
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            self._launch_error = error
            return
        finally:
            self._launched.set()
        assert self._process.stdout is not None
        hushed = NOISE if self._with_gpu else NOISE + NO_GPU_NOISE
        with log:
            for line in self._process.stdout:
                self._tail.append(line.rstrip("\n"))
                with contextlib.suppress(OSError):  # a full disk must not end this thread, and so the server
                    log.write(line)
                if self._echo and not any(noise in line for noise in hushed):
                    with contextlib.suppress(OSError, ValueError):  # the reader of our standard error may have gone
                        sys.stderr.write(line)

    def _wait_until_ready(self, deadline: float) -> None:
        self._launched.wait(30)
        if self._process is None:
            raise ServingError(f"The server could not be launched: {self._launch_error}.")
        unnoticed: dict[int, float] = {}
        while not self._api.is_live():
            if self._process.poll() is not None:
                raise ServingError(
                    f"The server ended while starting (exit status {self._process.returncode}); "
                    f"its last lines, also in {self.log_path}:\n{self.last_lines()}"
                )
            unnoticed = {pid: unnoticed.get(pid, time.monotonic()) for pid in leftovers.dead_stages(self.pid)}
            if any(time.monotonic() - since > UNNOTICED_S for since in unnoticed.values()):
                raise ServingError(
                    f"A Python stage ended before it could say why; the server's last lines, also in {self.log_path}:\n"
                    f"{self.last_lines()}"
                )
            if time.monotonic() > deadline:
                raise ServingError(f"The server did not answer in time; its log is {self.log_path}.")
            if not self.key_hidden and self._has_read_its_arguments():
                self.key_hidden = hide_in_process_list(self._process.pid, self.control_key)
            time.sleep(0.1)
        # Triton answers once it has tried to load all models.
        if not self.key_hidden:
            self.key_hidden = hide_in_process_list(self._process.pid, self.control_key)
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

    def _has_read_its_arguments(self) -> bool:
        try:  # backends are loaded long after the arguments were copied
            return "libtriton_python.so" in Path(f"/proc/{self.pid}/maps").read_text()
        except OSError:
            return False

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Ask the server to end, and insist once nothing but itself is left.

        Its gRPC library may sleep 10 s on a poller when everything else has ended: tried, one time in four after
        tensors of tens of MB. When the stages are gone no request is left, so that nap is cut short.
        """
        process.send_signal(signal.SIGTERM)
        now = stages_seen = time.monotonic()
        deadline = now + self.config.exit_timeout + 15
        while process.poll() is None:
            now = time.monotonic()
            if leftovers.has_stages(self._name):
                stages_seen = now
            if now > deadline or now - stages_seen > IDLE_BEFORE_KILL:
                process.kill()
                process.wait(10)
            time.sleep(0.1)


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""Keeps a Triton and its gateway running: what ends is started again."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from lipsync_client.folders import cache_folder
from lipsync_server.serving.backoff import Backoff
from lipsync_server.serving.control_key import control_key
from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.gateway_process import GatewayProcess
from lipsync_server.serving.gateway_watch import GatewayWatch
from lipsync_server.serving.network import choose_ports, private_ports
from lipsync_server.serving.server import TritonServer, remove_log
from lipsync_server.serving.server_settings import Ports, ServerConfig
from lipsync_server.serving.stages import StageWatch
from lipsync_server.serving.status_file import StatusFile

__all__ = ["Supervisor"]

START_S = 600.0  # that a start may take; a GPU may compile its networks
READY_S = 30.0  # from there to the first frame through the gateway
LOOK_S = 0.25


class Supervisor:
    """A Triton with its gateway, or alone; they end with this object, and with this process.

    A Triton that ends is started again on the same ports, and so is one with a dead stage, because 2.51 does not
    notice that, and one that hangs, which its gateway notices. They are killed at once: a request that was in one is
    repeated, by the gateway or by its caller.

        with Supervisor(Path("model_repository"), ServerConfig(), report=print) as supervisor:
            supervisor.start()
            supervisor.run()

    Args:
        repository: folder of models.
        config: settings. With `gateway` off, Triton itself answers on the ports.
        report: gets one line about what has happened.

    Attributes, once started:
        ports: where it answers.
        triton: the Triton that runs; None between two.
        log_path: what every Triton prints.
    """

    def __init__(self, repository: Path, config: ServerConfig, report: Callable[[str], None]) -> None:
        self.config = config
        self.triton: TritonServer | None = None
        self.gateway: GatewayProcess | None = None
        self._repository = repository
        self._report = report
        self._stages: StageWatch | None = None
        self._watch: GatewayWatch | None = None
        self._triton_backoff, self._gateway_backoff = Backoff(), Backoff()
        self._triton_due = self._gateway_due = 0.0
        self._triton_since = self._gateway_since = 0.0
        self._restarts = 0
        self._inference_key: str | None = None
        self._status = StatusFile()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Supervisor:
        """Start everything and wait until the required models are ready and, with a gateway, a frame was made.

        Raises:
            ConfigError, ServingError: it cannot start; nothing of it is left running.
        """
        ports = vars(self.config.ports)
        names = ("http", "grpc", "monolithic") if self.config.gateway else ("http", "grpc", "metrics")
        self.ports = Ports(**{**ports, **choose_ports(self.config.bind, {name: ports[name] for name in names})})
        self.log_path = cache_folder() / f"server-{self.ports.grpc}.log"
        self._triton_config = dataclasses.replace(self.config, ports=self.ports)
        if self.config.gateway:
            grpc, metrics = private_ports(2)
            own = Ports(http=0, grpc=grpc, metrics=metrics, monolithic=0)
            self._triton_config = dataclasses.replace(self.config, ports=own, bind="127.0.0.1")
            self._inference_key = secrets.token_urlsafe(32)
            self._status.path = cache_folder() / f"server-{self.ports.grpc}.json"
        try:
            if self.config.gateway:
                self._launch_gateway()
            self._launch_triton(self._check_gateway)
            self._wait_for_a_frame()
        except BaseException:
            self.stop()
            raise
        return self

    def run(self) -> None:
        """Heal for ever, until an exception ends it."""
        while True:
            self.heal()
            time.sleep(LOOK_S)

    def heal(self) -> None:
        """One look at everything: what has ended is started again, at once or when its time has come."""
        self._heal_gateway()
        self._heal_triton()
        self._status.write()

    def stop(self) -> None:
        """End everything. Safe to call twice, and again if it was interrupted."""
        if self._watch:
            self._watch.stop()
        if self.gateway:
            self.gateway.stop()
        if self.triton:
            self.triton.stop()
            if not self._restarts:  # else it tells why
                remove_log(self.log_path)
        self._status.remove()

    # Triton

    def _launch_triton(self, meanwhile: Callable[[], None]) -> None:
        """Raises ServingError."""
        self._status.triton.starting()
        self._status.write()
        self.triton = TritonServer(
            self._repository,
            self._triton_config,
            log_path=self.log_path,
            echo=True,
            append=self._restarts > 0,
            inference_key=self._inference_key,
        )
        self.triton.start(START_S, meanwhile)
        self._stages = StageWatch(self.triton.pid)
        self._triton_since = time.monotonic()
        self._status.triton.running(self.triton.pid)
        self._status.stages = self._stages.running
        self._status.write()

    def _heal_triton(self) -> None:
        now = time.monotonic()
        if self.triton is None:
            if now >= self._triton_due:
                self._restart_triton()
            return
        if trouble := self._trouble(now):
            self.triton.kill()
            self.triton = None
            delay = self._triton_backoff.delay(now - self._triton_since)
            self._triton_due = time.monotonic() + delay
            self._status.triton.ended(trouble, delay)
            self._status.stages = []
            self._report(f"{trouble}: it is started again{_in(delay)}. The log is {self.log_path}.")

    def _trouble(self, now: float) -> str | None:
        assert self.triton is not None
        assert self._stages is not None
        status = self.triton.exit_status
        if status is not None:
            return f"Triton has ended, {_how(status)}"
        stage = self._stages.dead(now)
        self._status.stages = self._stages.running
        if stage:
            self._status.stage_ended(stage)
            return f"Triton's stage {stage} has ended"
        hung = self._watch and self._watch.is_triton_hung(self._triton_since)
        return "Triton runs, but makes no frame any more" if hung else None

    def _restart_triton(self) -> None:
        self._restarts += 1
        began = time.monotonic()
        try:
            self._launch_triton(self._heal_gateway)
        except (ServingError, OSError) as error:
            self.triton = None
            delay = self._triton_backoff.delay(0.0)
            self._triton_due = time.monotonic() + delay
            self._status.triton.ended(_one_line(error), delay)
            self._report(f"Triton cannot be started again: {_one_line(error)} The next attempt is{_in(delay)}.")
        else:
            self._report(f"Triton serves again, after {time.monotonic() - began:.1f} s.")

    # The gateway

    def _launch_gateway(self) -> None:
        """Raises ServingError."""
        upstream, metrics = (f"127.0.0.1:{getattr(self._triton_config.ports, name)}" for name in ("grpc", "metrics"))
        assert self._inference_key is not None
        self._status.gateway.starting()
        keys = {"key": control_key(self.config), "inference_key": self._inference_key}
        status = self._status.path
        self.gateway = GatewayProcess(self.config, self.ports, upstream, metrics, status=status, **keys)
        self._watch = GatewayWatch(self.gateway)
        self._status.gateway.running(self.gateway.pid)
        self._status.write()
        self._gateway_since = time.monotonic()

    def _heal_gateway(self) -> None:
        if not self.config.gateway:
            return
        now = time.monotonic()
        if self.gateway is None:
            if now >= self._gateway_due:
                self._restart_gateway()
        elif trouble := self._gateway_trouble(now):
            if self._watch:
                self._watch.stop()
            self.gateway = self._watch = None
            delay = self._gateway_backoff.delay(now - self._gateway_since)
            self._gateway_due = now + delay
            self._status.gateway.ended(trouble, delay)
            self._report(f"{trouble}: it is started again{_in(delay)}.")

    def _gateway_trouble(self, now: float) -> str | None:
        assert self.gateway is not None
        if self.gateway.exit_status is None and self._watch and self._watch.is_gateway_hung(now):
            self.gateway.kill()
            return "The gateway runs, but does not answer any more"
        if self.gateway.exit_status is None:
            return None
        return f"The gateway has ended, {_how(self.gateway.exit_status)} ({self.gateway.last_line()})"

    def _restart_gateway(self) -> None:
        try:
            self._launch_gateway()
        except (ServingError, OSError) as error:
            delay = self._gateway_backoff.delay(0.0)
            self._gateway_due = time.monotonic() + delay
            self._status.gateway.ended(_one_line(error), delay)
            self._report(f"The gateway cannot be started again: {_one_line(error)} The next attempt is{_in(delay)}.")

    def _check_gateway(self) -> None:
        """Raises ServingError if it has ended, which it does while starting if it cannot work at all."""
        if self.gateway and self.gateway.exit_status is not None:
            raise ServingError(f"The gateway has ended: {self.gateway.last_line()}")

    def _wait_for_a_frame(self) -> None:
        if not self.gateway:
            return
        deadline = time.monotonic() + READY_S
        while trouble := self.gateway.trouble():
            self._check_gateway()
            if time.monotonic() > deadline:
                self._report(f"The gateway is not ready: {trouble}")
                return
            time.sleep(0.1)


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"with exit status {status}"


def _in(delay: float) -> str:
    return f" in {delay:g} s" if delay else " now"


def _one_line(error: Exception) -> str:
    """The error's sentence, and of a server's last lines the last."""
    first, *rest = [line for line in str(error).splitlines() if line]
    return f"{first} {rest[-1]}" if rest else first

"""The request log: one line a request, written by a thread of its own, so that no request waits for it."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lipsync_client.errors import LipsyncError
from lipsync_client.folders import cache_folder
from lipsync_server.gateway.settings import RequestLogSettings
from lipsync_server.rotating_file import RotatingFile

__all__ = ["Record", "RequestLog", "opened"]

logger = logging.getLogger(__name__)

EVERY_S = 0.2  # lines wait so long to be written together; waking a thread for each would take time from requests
BATCH = 1000  # lines that are written at once
LONGEST = 200  # characters of a value; callers choose some
CLOSE_S = 5.0
PLAIN = re.compile(r"[!#-<>-~]+")  # visible, without quotation marks and `=`


@dataclass(slots=True)
class Record:
    """What is said of a request.

    Attributes:
        time: when it came, in seconds since 1970.
        protocol: "grpc", "http" or "monolithic".
        method: a gRPC method, or an HTTP method and path.
        model, avatar: what was asked for; "": nothing.
        caller: its address.
        token: the name of its token; "": it has none.
        frames: that it got.
        bytes_in, bytes_out: sizes of the request's body or message, and of the answer's.
        ms: milliseconds from its arrival to the end of its answer.
        code: the gRPC status or the HTTP status; "": not known yet.
        trace: the id of its trace, in hexadecimal; "": it is not traced.
    """

    time: float
    protocol: str
    method: str
    caller: str = ""
    token: str = ""
    model: str = ""
    avatar: str = ""
    frames: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    ms: float = 0.0
    code: str = ""
    trace: str = ""


NAMES = tuple(field.name for field in fields(Record))


class RequestLog:
    """Writes records. A record that finds the queue full is dropped, and the log says how many were.

    Args:
        write: gets the text of several lines, in the log's own thread.
        line: makes the line of a mapping.
        queue_size: records that wait at most.
        end: called last, in that thread.

    Attributes:
        dropped: records that are in no log.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        line: Callable[[dict[str, Any]], str],
        queue_size: int = 10_000,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        self.dropped = 0
        self._write, self._line, self._queue_size, self._end = write, line, queue_size, end
        self._waiting: deque[Record | dict[str, Any]] = deque()
        self._told = 0  # of the dropped ones
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Take a request that has ended. Never waits. For one thread."""
        if len(self._waiting) >= self._queue_size:
            self.dropped += 1
        else:
            self._waiting.append(record)

    def event(self, event: str, **facts: Any) -> None:
        """Take a line that is about no request, such as the start."""
        self._waiting.append({"time": _iso(time.time()), "event": event, **facts})

    def close(self) -> None:
        """Write what waits. A file system that hangs is waited for some seconds."""
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._write_waiting()
        self._write_waiting()
        self._end()

    def _write_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._flush([self._line(one if isinstance(one, dict) else _values(one)) for one in batch])
            if not self._failing and (dropped := self.dropped) > self._told:
                self.event("lines dropped", count=dropped - self._told)
                self._told = dropped

    def _flush(self, lines: list[str]) -> None:
        try:
            self._write("".join(lines))
        except (OSError, ValueError) as error:  # ValueError: standard error is closed
            if not self._failing:
                logger.error("The request log cannot be written: %s", error)
            self._failing = True
            self.dropped += len(lines)
        else:
            self._failing = False


def opened(settings: RequestLogSettings, grpc_port: int) -> RequestLog | None:
    """The log that the settings ask for; None: none.

    Args:
        settings: where it is, and how it looks.
        grpc_port: the gateway's, after which the default file is named.

    Raises:
        LipsyncError: the file cannot be written.
    """
    line = json_line if settings.format == "json" else text_line
    if settings.file is None:
        return None
    if settings.file == "stderr":
        return RequestLog(_to_stderr, line, settings.queue_size)
    path = cache_folder() / f"requests-{grpc_port}.log" if settings.file == "auto" else Path(settings.file).absolute()
    try:
        file = RotatingFile(path, settings.max_size_mb << 20, settings.backups)
    except OSError as error:
        raise LipsyncError(f"The request log {path} cannot be written: {error.strerror or error}.") from None
    return RequestLog(file.write, line, settings.queue_size, file.close)


def text_line(values: dict[str, Any]) -> str:
    """`TIME PROTOCOL METHOD key=value ...`. Values with other than plain characters are in JSON's quotation marks."""
    shown = dict(values)
    head = [_text(shown.pop(name)) for name in ("time", "protocol", "method") if name in shown]
    return " ".join([*head, *(f"{name}={_text(value)}" for name, value in shown.items())]) + "\n"


def json_line(values: dict[str, Any]) -> str:
    """One JSON object."""
    return json.dumps({name: _short(value) for name, value in values.items()}) + "\n"


def _values(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in NAMES}
    values["time"], values["ms"] = _iso(record.time), round(record.ms, 1)
    if not record.trace:
        del values["trace"]
    return values


def _text(value: Any) -> str:
    text = str(_short(value))
    return text if PLAIN.fullmatch(text) else json.dumps(text) if text else "-"


def _short(value: Any) -> Any:
    return value[: LONGEST - 1] + "…" if isinstance(value, str) and len(value) > LONGEST else value


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()

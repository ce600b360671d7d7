"""Calls over gRPC that send half of their message and wait, in HTTP/2 by hand: no client library does that."""

from __future__ import annotations

import selectors
import socket
import struct
import threading

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
INITIAL_WINDOW = 4  # a setting
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHUNK = b"\0" * 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(**values: str) -> bytes:
    """In HPACK's plainest form."""
    packed = b""
    for name, value in values.items():
        for text in (name.replace("pseudo_", ":").replace("_", "-"), value):
            packed += (b"" if text == value else b"\0") + bytes([len(text)]) + text.encode()
    return packed


class HalfOpen:
    """One connection with one call, which has sent no more than half of its message.

    Attributes:
        sent: bytes of it that have been sent.
        ended: the server has ended the call.
    """

    def __init__(self, address: str, method: str, size: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.sent, self.ended = 0, False
        self._half = size // 2
        self._window = {0: 65_535, 1: 65_535}  # of the connection, of the call
        self._initial = 65_535
        self._unread = b""
        asked = headers(
            pseudo_method="POST",
            pseudo_scheme="http",
            pseudo_path=method,
            pseudo_authority=address,
            te="trailers",
            content_type="application/grpc",
        )
        prefix = frame(DATA, 0, 1, b"\0" + struct.pack(">I", size))
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, asked) + prefix)
        self._window = {stream: window - 5 for stream, window in self._window.items()}

    def go_on(self) -> None:
        """Read what has come; send what may be sent."""
        if not (received := self.socket.recv(65_536)):
            self.ended = True
            return
        self._unread += received
        while len(self._unread) >= 9 and len(self._unread) >= 9 + (size := int.from_bytes(self._unread[:3], "big")):
            kind, flags, stream = *self._unread[3:5], struct.unpack(">I", self._unread[5:9])[0]
            payload, self._unread = self._unread[9 : 9 + size], self._unread[9 + size :]
            self._take(kind, flags, stream, payload)
        while self.sent < self._half and min(self._window.values()) >= len(CHUNK) and not self.ended:
            self.socket.sendall(frame(DATA, 0, 1, CHUNK))
            self.sent += len(CHUNK)
            self._window = {stream: window - len(CHUNK) for stream, window in self._window.items()}

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == INITIAL_WINDOW:
                    self._window[1] += value - self._initial
                    self._initial = value
            self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._window[stream] += struct.unpack(">I", payload)[0]
        elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
            self.ended = True


class Flood:
    """Many of them, in a thread, until the block ends."""

    def __init__(self, address: str, method: str, *, count: int, size: int) -> None:
        self.calls = [HalfOpen(address, method, size) for _ in range(count)]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def open(self) -> int:
        return sum(not call.ended for call in self.calls)

    @property
    def sent(self) -> int:
        return sum(call.sent for call in self.calls)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(30)
        for call in self.calls:
            call.socket.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for call in self.calls:
                selector.register(call.socket, selectors.EVENT_READ, call)
            while not self._stopped.is_set():
                for key, _ in selector.select(0.1):
                    try:
                        key.data.go_on()
                    except OSError:
                        key.data.ended = True
                    if key.data.ended:
                        selector.unregister(key.fileobj)

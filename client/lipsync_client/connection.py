"""How a server is reached: its address, encryption, and what every call carries. Both clients and `Control` use it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipsync_client.errors import InvalidRequest, LipsyncError
from lipsync_client.wire import CA_FILE_VARIABLE

if TYPE_CHECKING:
    import grpc
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient

__all__ = ["CHANNEL_ARGS", "MANAGER_CHANNEL_ARGS", "NO_PROXY", "SECRET", "SESSION_HEADER", "Connection", "Endpoint"]

DEFAULT_PORT = 8001
ChannelArgs = Sequence[tuple[str, int]]
CHANNEL_ARGS = [
    ("grpc.max_send_message_length", -1),  # 25 frames of a large avatar pass gRPC's limit of 4 MB
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),  # gRPC's own (1 s to 2 min) outlast our retries
    ("grpc.max_reconnect_backoff_ms", 2000),
]
MANAGER_CHANNEL_ARGS = [  # of those that manage servers: one that is started again is noticed sooner
    *(option for option in CHANNEL_ARGS if "reconnect_backoff" not in option[0]),
    *((f"grpc.{which}_reconnect_backoff_ms", 300) for which in ("initial", "min", "max")),
]
SESSION_HEADER = "lipsync-session"  # of a live session's requests: an id by which a gateway tells it from others
NO_PROXY = ("grpc.enable_http_proxy", 0)
SECRET = re.compile(r"[!-~]{1,4096}")  # what an HTTP header can carry, without spaces
HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
ADDRESS = re.compile(rf"({HOST.pattern})(?::([0-9]{{1,5}}))?/?")
GRPC_TARGET = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6):")
HEADER_NAME = re.compile(r"[0-9a-z_.-]{1,128}")
HEADER_VALUE = re.compile(r"[ -~]{0,4096}")


class Endpoint:
    """A server's address.

    Args:
        url: `grpcs://host[:port]` with TLS, `host[:port]` or `grpc://host[:port]` without; the default port is 8001.
            Other targets of gRPC (`unix:`, `dns:`, `ipv4:`) are passed on as they are, without TLS.

    Attributes:
        target: what gRPC connects to.
        secure: TLS is used.
        loopback: the address is one of this machine alone.

    Raises:
        InvalidRequest: it is no address; the text says what to write instead.
    """

    def __init__(self, url: str) -> None:
        scheme, separator, rest = url.rpartition("://")
        self.secure = scheme == "grpcs"
        self.target, self.loopback = url, False
        if GRPC_TARGET.match(url) and ("@" not in url or url.startswith("unix")):
            host, _, port = url.rpartition(":")
            self.loopback = port.isdecimal() and _is_loopback(host)
            return
        found = ADDRESS.fullmatch(rest)
        if found is None or scheme not in ("", "grpc", "grpcs") or not 1 <= int(found[2] or DEFAULT_PORT) <= 65535:
            raise InvalidRequest(_trouble_with(scheme, separator, rest))
        host, port = found[1], found[2] or str(DEFAULT_PORT)
        self.target = f"{host}:{port}"
        self.loopback = _is_loopback(host)


def _trouble_with(scheme: str, separator: str, rest: str) -> str:
    """What is wrong with an address, and what to write. What does not fit is not shown: it may be a password."""
    place = rest.rstrip("/").partition("/")[0]
    host, _, port = place.rpartition(":")
    if not rest.strip():
        return f"The server's address is empty: write host:port, such as 127.0.0.1:{DEFAULT_PORT}."
    if "@" in rest:
        return "A server's address holds no user and no password: write host:port, and give a token."
    if re.search(r"\s", rest):
        return "A server's address holds no spaces: write host:port."
    if scheme in ("http", "https") and (known := ADDRESS.fullmatch(place)):
        secure = "grpcs://" if scheme == "https" else ""
        return (
            f"A server's address is that of its gRPC port, and {scheme}:// is for its HTTP port: write"
            f" {secure}{known[1]}:{DEFAULT_PORT}, or with the port that its gRPC has."
        )
    if separator and scheme not in ("grpc", "grpcs"):
        return "A server's address begins with grpc:// or grpcs://, or is host:port: no other scheme is known."
    if place.count(":") > 1 and "[" not in place:
        return f"An IPv6 address stands in brackets: write [address]:port, such as [::1]:{DEFAULT_PORT}."
    if HOST.fullmatch(host) and not (port.isdecimal() and 1 <= int(port) <= 65535):
        return "The port of a server's address must be a number from 1 to 65535: write host:port."
    if place != rest.rstrip("/") and ADDRESS.fullmatch(place):
        return "A server's address has no path: write host:port, and nothing behind it."
    return "A server's address is host:port, or grpcs://host:port with TLS, and nothing else."


class Connection:
    """Makes gRPC clients of one server. It holds a secret, so nothing prints it.

    Args:
        url: as for `Endpoint`.
        token: bearer token, sent with every call.
        headers: sent with every call too.

    Raises:
        InvalidRequest: the address, the token or a header cannot be used.
        LipsyncError: the token would travel unencrypted.
    """

    def __init__(self, url: str, *, token: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.endpoint = Endpoint(url)
        self._process = os.getpid()
        self._headers = _checked_headers(headers or {})
        if token is not None:
            if not SECRET.fullmatch(token):
                raise InvalidRequest("The token must be printable ASCII characters without spaces.")
            if "authorization" in self._headers:
                raise InvalidRequest("Give either a token or the header authorization: a token is sent in that header.")
            self._headers["authorization"] = f"Bearer {token}"
        if "authorization" in self._headers and not (self.endpoint.secure or self.endpoint.loopback):
            raise LipsyncError(
                f"A token is never sent unencrypted to another machine: use grpcs://{self.endpoint.target}, or a"
                " tunnel to a port of this machine."
            )

    def check_process(self) -> None:
        """Raise LipsyncError in a child of `os.fork`: gRPC's threads, and ours, are not there."""
        if os.getpid() != self._process:
            raise LipsyncError(
                "This client was made before os.fork (multiprocessing's start method fork does that too) and does not"
                " work in the child process: make one there, or use the start method spawn."
            )

    def connect(self, channel_args: ChannelArgs = CHANNEL_ARGS) -> InferenceServerClient:
        """Triton's client, which dials at its first call. Raises LipsyncError: the file of CAs cannot be used."""
        from tritonclient.grpc import InferenceServerClient

        client = InferenceServerClient(self.endpoint.target, **self._options(channel_args))
        client.register_plugin(self._add_headers)
        return client

    def connect_async(self) -> AsyncInferenceServerClient:
        """The same for asyncio. gRPC binds it to the event loop that runs."""
        from tritonclient.grpc.aio import InferenceServerClient

        client = InferenceServerClient(self.endpoint.target, **self._options(CHANNEL_ARGS))
        client.register_plugin(self._add_headers)
        return client

    def call(self, method: str, data: bytes, timeout: float) -> bytes:
        """One unary call on a connection of its own, bytes in and bytes out. Raises InferenceServerException."""
        import grpc
        from tritonclient.utils import InferenceServerException

        self.check_process()
        options = self._options(CHANNEL_ARGS)
        target, arguments = self.endpoint.target, options["channel_args"]
        secure = options["creds"] and grpc.secure_channel(target, options["creds"], arguments)
        with secure or grpc.insecure_channel(target, arguments) as channel:
            try:
                answer: bytes = channel.unary_unary(method)(
                    data, timeout=timeout, metadata=tuple(self._headers.items())
                )
            except grpc.RpcError as error:
                raise InferenceServerException(error.details(), str(error.code())) from None
        return answer

    def _options(self, channel_args: ChannelArgs) -> dict[str, Any]:
        # A proxy of the environment would read what only this machine should.
        arguments = [*channel_args, NO_PROXY] if self.endpoint.loopback else list(channel_args)
        return {"creds": _credentials() if self.endpoint.secure else None, "channel_args": arguments}

    def _add_headers(self, request: Any) -> None:
        self.check_process()  # every call comes by here
        request.headers = {**self._headers, **(request.headers or {})}


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names in lower case, as gRPC wants them. Values may be secret, so no error shows one."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if not HEADER_NAME.fullmatch(lower) or lower.startswith("grpc-") or lower.endswith("-bin"):
            raise InvalidRequest(
                "A header's name must be letters, digits and _ . -, must not begin with grpc-, and not end in -bin."
            )
        if not HEADER_VALUE.fullmatch(value):
            raise InvalidRequest(f"The value of the header {lower} must be printable ASCII characters.")
        checked[lower] = value
    return checked


def _credentials() -> grpc.ChannelCredentials:
    """TLS that trusts the CAs of the file in `CA_FILE_VARIABLE`, by default those that gRPC brings."""
    import grpc

    path = os.environ.get(CA_FILE_VARIABLE)
    if not path:
        return grpc.ssl_channel_credentials()
    try:
        certificates = Path(path).read_bytes()
    except OSError as error:
        raise LipsyncError(f"The file of CAs {path} ({CA_FILE_VARIABLE}) cannot be read: {error.strerror}.") from None
    if b"-----BEGIN CERTIFICATE-----" not in certificates:
        raise LipsyncError(f"The file of CAs {path} ({CA_FILE_VARIABLE}) holds no certificate in PEM format.")
    return grpc.ssl_channel_credentials(certificates)

"""What the gateway may be told, and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from lipsync_client.settings import CHECKED, checked

__all__ = ["GatewaySettings", "RequestLogSettings", "TracingSettings"]

Address = Annotated[StrictStr, Field(pattern=r"^[^\s/]+:\d{1,5}$")]
Port = Annotated[StrictInt, Field(ge=0, le=65535)]
Seconds = Annotated[StrictInt | StrictFloat, Field(gt=0, le=3600)]
Megabytes = Annotated[StrictInt, Field(ge=1, le=1024)]
Count = Annotated[StrictInt, Field(ge=1, le=100_000)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=128)]

PORT = "a port number from 0 (any free one) to 65535"
SECONDS = "seconds above 0"
COUNT = "a whole number from 1 up"
MEGABYTES = "MiB from 1 to 1024"


@dataclass(frozen=True, config=CHECKED)
class RequestLogSettings:
    """The request log.

    Attributes:
        file: its path; "auto": `requests-PORT.log` in the user's cache folder, with the port for gRPC; "stderr":
            standard error; None: there is no log.
        format: of a line.
        queue_size: requests that wait to be written, at most; others are dropped and counted.
        max_size_mb: size at which the file is replaced by a new one.
        backups: older files that are kept.
    """

    file: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        default="auto", description="a path, auto, stderr, or null for no log"
    )
    format: Literal["text", "json"] = Field(default="text", description="text or json")
    queue_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="a whole number from 1 to 1000000"
    )
    max_size_mb: Megabytes = Field(default=20, description=MEGABYTES)
    backups: Annotated[StrictInt, Field(ge=0, le=100)] = Field(default=2, description="a whole number from 0 to 100")


@dataclass(frozen=True, config=CHECKED)
class TracingSettings:
    """Spans for OpenTelemetry.

    Attributes:
        otlp_endpoint: URL of a collector that takes OTLP over gRPC; https with TLS. None: no tracing.
        service_name: how the spans name the gateway.
        sample_ratio: part of the traces that are kept, where a caller has not decided it.
    """

    otlp_endpoint: Annotated[StrictStr, Field(pattern=r"^https?://[^\s/]+$")] | None = Field(
        default=None, description="a URL such as http://127.0.0.1:4317, or null for no tracing"
    )
    service_name: Name = Field(default="lipsync-gateway", description="1 to 128 characters")
    sample_ratio: Annotated[StrictInt | StrictFloat, Field(ge=0, le=1)] = Field(
        default=1.0, description="a number from 0 to 1"
    )


@dataclass(frozen=True, config=CHECKED)
class GatewaySettings:
    """Settings of a gateway. Wrong values raise a SettingsError that names them.

    Attributes:
        upstreams: host:port of each Triton's gRPC endpoint.
        upstream_metrics: host:port of the metrics of the one Triton, which then are among the gateway's.
        supervisor_status: the file in which the supervisor of the one Triton says how it is; None: it has none.
        bind: address of the public ports.
        grpc_port, http_port, monolithic_port: KServe v2 over gRPC and over HTTP, and the monolithic API.
        aliases: other names of avatars, for clients of the monolithic API.
        on_demand: load avatars that are asked for, where the control key is known.
        probe_avatar: whose frame is asked for to see whether an upstream works.
        probe_interval_s: seconds without a frame after which an upstream is asked for one.
        probe_timeout_s: seconds that this may take.
        attempts: how often a request is sent, each time to another upstream where there is one.
        attempt_timeout_s: seconds that an upstream may take for a request.
        patience_s: seconds that a request is held while no upstream is ready.
        max_message_size_mb: size of a request over gRPC, and of an answer over the monolithic API.
        max_body_mb: size of an HTTP body.
        max_json_mb: size of its JSON part.
        max_open_requests: requests that are open at once, of all callers.
        max_open_per_caller: of one caller, who is an IP address.
        max_streams_per_caller: ModelStreamInfer calls of one caller that are open at once.
        max_connections: open HTTP connections.
        max_connections_per_caller: of one caller.
        max_reading_mb: size of all HTTP bodies that are being read; and of all messages over gRPC that are open.
        header_timeout_s: seconds in which the headers of an HTTP request must come.
        body_timeout_s: seconds in which its body must come, and a message over gRPC.
        tls_cert, tls_key: PEM files of the public ports' certificate and its key; None: no TLS.
        request_log: one line a request.
        tracing: spans for OpenTelemetry.
        tokens: the file with the tokens of callers on other machines; None: `tokens.default_file`.
    """

    upstreams: Annotated[tuple[Address, ...], Field(min_length=1)] = Field(
        description="one or several addresses such as 127.0.0.1:9001"
    )
    upstream_metrics: Address | None = Field(default=None, description="an address such as 127.0.0.1:9002, or null")
    supervisor_status: StrictStr | None = Field(default=None, description="a path, or null")
    bind: StrictStr = Field(default="127.0.0.1", description="an address such as 127.0.0.1 or 0.0.0.0")
    grpc_port: Port = Field(default=8001, description=PORT)
    http_port: Port = Field(default=8000, description=PORT)
    monolithic_port: Port = Field(default=50053, description=PORT)
    aliases: dict[Name, Name] = Field(default_factory=dict, description="avatars by other names, as {sanders: demo}")
    on_demand: StrictBool = Field(default=True, description="true or false")
    probe_avatar: Name = Field(default="demo", description="an avatar's id")
    probe_interval_s: Seconds = Field(default=3.0, description=SECONDS)
    probe_timeout_s: Seconds = Field(default=10.0, description=SECONDS)
    attempts: Annotated[StrictInt, Field(ge=1, le=10)] = Field(default=3, description="a whole number from 1 to 10")
    attempt_timeout_s: Seconds = Field(default=60.0, description=SECONDS)
    patience_s: Seconds = Field(default=10.0, description=SECONDS)
    max_message_size_mb: Megabytes = Field(default=120, description=MEGABYTES)
    max_body_mb: Megabytes = Field(default=120, description=MEGABYTES)
    max_json_mb: Megabytes = Field(default=4, description=MEGABYTES)
    max_open_requests: Count = Field(default=512, description=COUNT)
    max_open_per_caller: Count = Field(default=128, description=COUNT)
    max_streams_per_caller: Count = Field(default=32, description=COUNT)
    max_connections: Count = Field(default=2000, description=COUNT)
    max_connections_per_caller: Count = Field(default=600, description=COUNT)
    max_reading_mb: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = Field(default=1024, description="MiB from 1 up")
    header_timeout_s: Seconds = Field(default=10.0, description=SECONDS)
    body_timeout_s: Seconds = Field(default=60.0, description=SECONDS)
    tls_cert: StrictStr | None = Field(default=None, description="a path of a PEM file, or null")
    tls_key: StrictStr | None = Field(default=None, description="a path of a PEM file, or null")
    tokens: StrictStr | None = Field(default=None, description="a path, or null for the user's data folder")
    request_log: RequestLogSettings = Field(default_factory=RequestLogSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together: give both, or neither.")

    @classmethod
    def from_dict(cls, values: Any) -> GatewaySettings:
        """From plain values, as YAML or options give them. Raises SettingsError."""
        return checked(cls, {"upstreams": (), **values} if isinstance(values, dict) else values, "gateway")

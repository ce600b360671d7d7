"""Starts, watches and stops the Triton server that comes with the `nvidia-pytriton` wheel."""

from lipsync_server.serving.errors import ConfigError, ServingError
from lipsync_server.serving.server import TritonServer
from lipsync_server.serving.server_settings import Ports, ServerConfig
from lipsync_server.serving.supervisor import Supervisor

__all__ = ["ConfigError", "Ports", "ServerConfig", "ServingError", "Supervisor", "TritonServer"]

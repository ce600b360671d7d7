"""Starts, watches and stops the Triton server that comes with the `nvidia-pytriton` wheel."""

from lipsync_server.serving.config import Ports, ServerConfig
from lipsync_server.serving.errors import ConfigError, ServingError
from lipsync_server.serving.server import TritonServer

__all__ = ["ConfigError", "Ports", "ServerConfig", "ServingError", "TritonServer"]

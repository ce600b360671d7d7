"""Starts, watches and stops the Triton server that comes with the `nvidia-pytriton` wheel."""

from serving.config import Ports, ServerConfig
from serving.errors import ConfigError, ServerError
from serving.server import TritonServer

__all__ = ["ConfigError", "Ports", "ServerConfig", "ServerError", "TritonServer"]

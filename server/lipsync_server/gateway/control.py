"""Calls that change a server or spy on it: only with the control key, which the upstreams judge."""

from __future__ import annotations

import asyncio
import math

import grpc
from tritonclient.grpc.service_pb2 import RepositoryModelUnloadRequest

from lipsync_client.control.control import KEY_HEADER
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.refusal import Refused

__all__ = ["METHODS", "controlled", "restricted"]

METHODS = (
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
)
LONGEST_S = 900.0  # a load may compile a network first


async def controlled(gateway: Gateway, method: str, data: bytes, key: str, deadline: float = math.inf) -> bytes:
    """A control call, made on every upstream with the key that its caller has sent. Raises Refused."""
    if not key:
        raise restricted(method)
    timeout = min(LONGEST_S, deadline - asyncio.get_running_loop().time())
    try:
        answer = await gateway.upstreams.everywhere(method, data, [(KEY_HEADER, key)], timeout)
    except Refused as refused:
        raise restricted(method) if "protocol is restricted" in refused.sentence else refused from None
    gateway.forget_contracts()
    if method == "RepositoryModelUnload":  # or the gateway would load again what it holds
        await gateway.avatars.let_go(RepositoryModelUnloadRequest.FromString(data).model_name)
    return answer


def restricted(what: str) -> Refused:
    """The refusal of a control call."""
    sentence = f"This protocol is restricted: {what} needs the server's control key in the header '{KEY_HEADER}'"
    return Refused(grpc.StatusCode.PERMISSION_DENIED, sentence, "control")

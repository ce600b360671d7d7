"""What the stages use of the module that Triton's Python backend brings."""

from typing import Any

from numpy.typing import NDArray

class TritonModelException(Exception): ...

class TritonError:
    UNKNOWN: int
    INTERNAL: int
    NOT_FOUND: int
    INVALID_ARG: int
    UNAVAILABLE: int
    UNSUPPORTED: int
    ALREADY_EXISTS: int
    CANCELLED: int
    def __init__(self, message: str, code: int = ...) -> None: ...

class Tensor:
    def __init__(self, name: str, values: NDArray[Any]) -> None: ...
    def as_numpy(self) -> NDArray[Any]: ...

class InferenceRequest:
    def requested_output_names(self) -> list[str]: ...
    def is_cancelled(self) -> bool: ...

class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] = ..., error: TritonError | None = None) -> None: ...

class Logger:
    @staticmethod
    def log_info(message: str) -> None: ...
    @staticmethod
    def log_warn(message: str) -> None: ...
    @staticmethod
    def log_error(message: str) -> None: ...

def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None: ...

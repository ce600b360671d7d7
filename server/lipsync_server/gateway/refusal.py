"""What a caller is told instead of an answer."""

from __future__ import annotations

import re

import grpc

from lipsync_mel import refusals

__all__ = ["Refused", "invalid", "is_missing", "load_failed", "overloaded"]

MISSING = re.compile("unknown model|no available versions|requested model .* is not available")


class Refused(Exception):
    """A request that gets no frames; its text is the sentence that the caller reads.

    Attributes:
        code: the gRPC status.
        reason: why, in a word or two, for the metrics.
    """

    def __init__(self, code: grpc.StatusCode, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.reason = reason


def invalid(sentence: str, reason: str) -> Refused:
    """The request is wrong."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, sentence, reason)


def overloaded(sentence: str) -> Refused:
    """The same request may succeed soon. Clients tell it by its code."""
    return Refused(grpc.StatusCode.UNAVAILABLE, refusals.coded(refusals.OVERLOADED, sentence), "overloaded")


def load_failed(sentence: str) -> Refused:
    """The request's avatar cannot be loaded. Clients tell it by its code."""
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, refusals.coded(refusals.LOAD_FAILED, sentence), "load failed")


def is_missing(code: grpc.StatusCode, sentence: str) -> bool:
    """Whether an upstream says that a model is not loaded, for which it has several statuses."""
    if "in ensemble" in sentence:  # it began, and one of its steps was gone before its turn
        return False
    return code is grpc.StatusCode.NOT_FOUND or bool(MISSING.search(sentence))

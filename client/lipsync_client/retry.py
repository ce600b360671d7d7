"""When a request that failed is sent again, and where: the one policy of every client here."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable

from lipsync_client.errors import AvatarNotFound, LipsyncError, ServerError

__all__ = ["Attempts"]

FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 4.0


class Attempts:
    """The attempts of one request at one address, or at several in turn.

    The next address is tried at once. Once every address has failed there is a pause. It doubles from 0.2 s to 4 s, and
    is by chance up to half as long again, so that many clients do not come back at the same moment.

    >>> attempts = Attempts()
    >>> while True:
    ...     try:
    ...         return send()
    ...     except LipsyncError as failure:
    ...         time.sleep(attempts.delay_after(failure))  # raises the failure if it is not worth another attempt

    Args:
        addresses: how many there are.
        first: the address to begin with.
        patience: seconds after which the request is given up, if that is sooner than by `LipsyncError.retries`.
        now: the time in seconds.

    Attributes:
        address: number of the address to send the request to.
    """

    def __init__(
        self,
        addresses: int = 1,
        *,
        first: int = 0,
        patience: float = math.inf,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = first
        self._addresses = addresses
        self._now = now
        self._give_up = now() + patience
        self._failed = 0
        self._rounds: Counter[int] = Counter()  # that ended with a failure of so many retries
        self._worst: LipsyncError | None = None  # of this round through the addresses: the one most worth repeating

    def delay_after(self, failure: LipsyncError) -> float:
        """Seconds to wait before the next attempt; `address` says where to.

        Raises:
            LipsyncError: the failure that is to be reported, because another attempt would not help.
        """
        if not (failure.retries or isinstance(failure, (AvatarNotFound, ServerError))):
            raise failure from None  # it would be the same at every address
        self._failed += 1
        self.address = (self.address + 1) % self._addresses
        self._worst = max(self._worst or failure, failure, key=lambda error: error.retries)
        if self._failed % self._addresses:
            return 0.0
        rounds, worst, self._worst = self._failed // self._addresses, self._worst, None
        delay = min(FIRST_DELAY_S * 2.0 ** (rounds - 1), LONGEST_DELAY_S) * random.uniform(1.0, 1.5)
        self._rounds[worst.retries] += 1  # a time-out after a restart is the first one
        if self._rounds[worst.retries] > worst.retries or self._now() + delay > self._give_up:
            raise worst from None
        return delay

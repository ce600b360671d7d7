"""A request that ends servers is found out, and those that ran beside it are not blamed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from test_gateway_upstreams import run

from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.suspects import KEPT_S, MAX_KEPT, Suspects

POISON, INNOCENT, OTHER = b"poison", b"innocent", b"other"


async def all_died(suspects: Suspects, *requests: bytes) -> None:
    """Requests that ran at the same time when the server ended."""
    async with AsyncExitStack() as stack:
        for running in [await stack.enter_async_context(suspects.running(one)) for one in requests]:
            suspects.died(running)


async def worked(suspects: Suspects, request: bytes) -> None:
    async with suspects.running(request) as running:
        suspects.survived(running)


def test_a_request_that_ran_alone_is_refused_after_the_second_end() -> None:
    async def main() -> None:
        suspects = Suspects(lambda: 0.0, 60.0)
        await all_died(suspects, POISON)
        with pytest.raises(Refused, match=r"^the server ended 2 times while it worked on this request"):
            await all_died(suspects, POISON)
        with pytest.raises(Refused):
            await worked(suspects, POISON)
        await worked(suspects, OTHER)

    run(main)


def test_among_many_the_one_that_ends_servers_is_found_and_no_other_is_refused() -> None:
    async def main() -> None:
        suspects = Suspects(lambda: 0.0, 60.0)
        await all_died(suspects, INNOCENT, POISON)
        await all_died(suspects, POISON, OTHER)  # one that runs for the first time is in company, and not blamed
        with pytest.raises(Refused):
            await all_died(suspects, POISON)
        for _ in range(2):
            await worked(suspects, INNOCENT)
            await worked(suspects, OTHER)

    run(main)


def test_one_that_runs_for_the_first_time_beside_a_suspect_is_not_blamed() -> None:
    async def main() -> None:
        suspects = Suspects(lambda: 0.0, 60.0)
        await all_died(suspects, INNOCENT, POISON)
        await all_died(suspects, POISON, OTHER)
        await all_died(suspects, OTHER)  # the first end that only it can be blamed for
        await worked(suspects, OTHER)

    run(main)


def test_a_suspect_does_not_wait_for_ever_for_its_turn() -> None:
    async def main() -> None:
        suspects = Suspects(lambda: 0.0, 0.01)
        await all_died(suspects, INNOCENT, POISON)
        async with suspects.running(POISON):
            with pytest.raises(Refused, match="one after the other"):
                await worked(suspects, INNOCENT)
        await worked(suspects, INNOCENT)

    run(main)


def test_suspects_run_one_at_a_time_beside_the_others() -> None:
    async def main() -> None:
        suspects = Suspects(lambda: 0.0, 60.0)
        await all_died(suspects, INNOCENT, POISON)
        async with suspects.running(POISON):
            waiting = asyncio.create_task(worked(suspects, INNOCENT))
            await worked(suspects, OTHER)
            await asyncio.sleep(0.05)
            assert not waiting.done()
        await waiting
        async with suspects.running(POISON):
            await worked(suspects, INNOCENT)  # it has worked, and does not wait any more

    run(main)


def test_a_request_whose_twin_is_to_blame_is_refused_when_its_turn_comes() -> None:
    async def main() -> None:
        suspects = Suspects(lambda: 0.0, 60.0)
        await all_died(suspects, POISON)
        async with suspects.running(POISON) as first:
            twin = asyncio.create_task(worked(suspects, POISON))
            await asyncio.sleep(0)
            with pytest.raises(Refused):
                suspects.died(first)
        with pytest.raises(Refused):
            await twin

    run(main)


def test_a_refused_request_is_taken_again_later_and_memory_is_bounded() -> None:
    clock = [0.0]

    async def main() -> None:
        suspects = Suspects(lambda: clock[0], 60.0)
        await all_died(suspects, POISON)
        with pytest.raises(Refused):
            await all_died(suspects, POISON)
        clock[0] = KEPT_S + 1
        await worked(suspects, POISON)
        for number in range(MAX_KEPT + 10):
            await all_died(suspects, b"%d" % number)
        assert len(suspects._known) == MAX_KEPT

    run(main)

"""Mouth patches from a real server: pasted into the footage they are the whole frames, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from lipsync_client import AsyncClient, LiveSession
from live_clock import run, take, until_last
from speech import real_speech

SECONDS = 60.0  # no call may hang
SPEECH = real_speech()[16_000 : 16_000 + 640 * 45 - 100]


@pytest.mark.parametrize("avatar", ["demo", "quick", "medium"])
def test_pasted_patches_are_the_frames_of_the_speech(request, server, avatar: str) -> None:
    """Cut in two ways, and over the end of the footage."""
    name = avatar if avatar == "demo" else request.getfixturevalue(avatar)

    async def main() -> None:
        async with AsyncClient(server.grpc_url, timeout=SECONDS) as client:
            facts = await client.avatar(name)
            start = facts.footage_frames - 10
            whole = [f.jpeg async for f in client.render(SPEECH, avatar=name, chunk=32, footage_start=start)]
            timeline, pasted, sizes = await client.timeline(), [], []
            for part in timeline.cut(SPEECH, first_chunk=1, chunk=11, footage_start=start):
                answer = await client.attempt(replace(part, patches=True), name)
                plain = await client.footage(facts.key, part.footage_start, len(answer.patches), name)
                pasted += [patch.paste(jpeg) for patch, jpeg in zip(answer.patches, plain.frames, strict=True)]
                sizes += map(len, answer.patches)
                assert {patch.key for patch in answer.patches} == {facts.key}
                assert answer.frames == plain.patches == ()
        assert pasted == whole
        assert sum(sizes) < sum(map(len, whole)) / 4

    asyncio.run(main())


def test_a_live_session_with_patches_shows_the_same_pictures(server, clock) -> None:
    async def shown(pictures: str) -> list[bytes]:
        async with LiveSession(server.grpc_url, clock=clock, timeout=SECONDS, pictures=pictures) as session:
            await take(session, 3)
            await session.push(SPEECH[:20_000], 16_000)
            await session.end_speech()
            return [(frame.footage_position, frame.whole()) for frame in await until_last(session)]

    async def main() -> None:
        assert await shown("patches") == await shown("frames")

    run(main, clock)


def test_without_asking_no_patch_comes(call) -> None:
    answer = call(AUDIO=np.zeros(16_000, np.float32), FRAME_COUNT=2)
    assert len(answer.JPEG) == 2
    assert len(answer.PATCH) == 0
    assert answer.PATCH_BOX.shape == (0, 4)
    assert answer.PATCH_KEY.shape == (0,)

"""A LiveKit agent with a face.

    python examples/livekit/agent.py start

Needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET of a LiveKit server, your own or LiveKit's cloud. With
OPENAI_API_KEY it converses (OpenAI hears, thinks and speaks); without, it says a recording once.

Settings, all from the environment: LIPSYNC_SERVER (127.0.0.1:8001), LIPSYNC_AVATAR (demo), SPEECH (samples/speech.wav).
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

try:
    import numpy as np
    from livekit import rtc
    from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli

    from lipsync_client import Client, LipsyncError, read_audio
    from lipsync_client.agents.livekit import LipsyncAvatar
except ImportError as error:
    sys.exit(f"{error}. Install what this example needs: pip install 'lipsync-triton[livekit]'")

RATE = 24_000
SERVER = os.environ.get("LIPSYNC_SERVER", "127.0.0.1:8001")
AVATAR = os.environ.get("LIPSYNC_AVATAR", "demo")
SPEECH = os.environ.get("SPEECH", "samples/speech.wav")
KEYS = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")

server = AgentServer()


async def recording() -> AsyncIterator[rtc.AudioFrame]:
    """The recorded speech as a synthesiser might give it."""
    sound = (np.clip(read_audio(SPEECH, rate=RATE), -1, 1) * 32767).astype(np.int16)
    for start in range(0, len(sound), RATE // 10):
        piece = sound[start : start + RATE // 10]
        yield rtc.AudioFrame(piece.tobytes(), RATE, 1, len(piece))


def conversing() -> AgentSession:
    """A session in which OpenAI does everything but the face."""
    from livekit.plugins import openai

    return AgentSession(stt=openai.STT(), llm=openai.LLM(), tts=openai.TTS())


@server.rtc_session()
async def entrypoint(context: JobContext) -> None:
    """One room."""
    await context.connect()
    converses = bool(os.environ.get("OPENAI_API_KEY"))
    session = conversing() if converses else AgentSession()
    avatar = LipsyncAvatar(SERVER, avatar=AVATAR, sample_rate=RATE)
    await avatar.start(session, context.room)  # before the session: it must find its sound's way out taken
    await session.start(Agent(instructions="Answer in one or two short sentences."), room=context.room)
    if converses:
        session.generate_reply(instructions="Greet the visitor.")
    else:
        session.say("Whatever is on the recording.", audio=recording())


def check() -> None:
    """Exit with one sentence if something is missing: later it would be an error in the log of a job."""
    missing = [name for name in KEYS if not os.environ.get(name)]
    if missing:
        sys.exit(f"Set {', '.join(missing)}: the address and the keys of a LiveKit server.")
    try:
        if os.environ.get("OPENAI_API_KEY"):
            from livekit.plugins import openai  # noqa: F401
        else:
            read_audio(SPEECH)
        with Client(SERVER) as client:
            client.avatar(AVATAR)
    except ImportError as error:
        sys.exit(f"{error}. To converse, install it: pip install 'livekit-agents[openai]'")
    except LipsyncError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    if sys.argv[1:2] in (["start"], ["dev"]):
        check()
    cli.run_app(server)

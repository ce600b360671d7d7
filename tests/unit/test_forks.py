"""Clients that were used before `os.fork`, as multiprocessing does by default on Linux before Python 3.14."""

from __future__ import annotations

import subprocess
import sys

import pytest
from client_fake import FakeServer, running

# The parent uses its client; the child says what became of each call.
SCRIPT = """
import asyncio, os, sys
import numpy as np
from lipsync_client import AsyncClient, Client, Control, LipsyncError
url, what = sys.argv[1:]
speech = np.zeros(300, np.float32)

async def asked(client):
    return [frame async for frame in client.render(speech, chunk=8)]

def call():
    if what == "render": return list(client.render(speech, chunk=8))
    if what == "avatar": return client.avatar("demo")
    if what == "infer": return client.infer(np.zeros(1000, np.float32), frame_count=1, audio_end=False)
    if what == "ready": return control.ready("demo")
    if what == "asyncio": return asyncio.run(asked(aio))
    if what == "close": return client.close() or "closed"
    if what == "another":
        with Client(url) as own: return list(own.render(speech, chunk=8))

client, control, aio = Client(url), Control(url), AsyncClient(url)
list(client.render(speech, chunk=8)); control.ready("demo")
child = os.fork()
if not child:
    try:
        print("worked" if call() else "nothing", flush=True)
    except LipsyncError as error:
        print("told:", error, flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
list(client.render(speech, chunk=8))
print("the parent goes on", flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("render", "told: This client was made before os.fork"),
        ("avatar", "told: This client was made before os.fork"),
        ("infer", "told: This client was made before os.fork"),
        ("ready", "told: This client was made before os.fork"),
        ("asyncio", "told: This client was made before os.fork"),
        ("close", "worked"),
        ("another", "worked"),
    ],
)
def test_a_child_of_a_fork_is_told_and_its_own_client_works(what: str, says: str) -> None:
    with running(FakeServer()) as fake:
        outcome = subprocess.run(
            [sys.executable, "-c", SCRIPT, fake.url, what], capture_output=True, text=True, timeout=60, check=False
        )
    child, parent = outcome.stdout.strip().splitlines()
    assert child.startswith(says), outcome
    assert parent == "the parent goes on"

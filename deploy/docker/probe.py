"""A health check for containers, with the standard library alone: exit status 0, or 1 and one sentence.

probe.py gateway [URL]    the gateway says that a frame was made a moment ago
probe.py triton [URL]     a frame is made now; Triton's own health stays "ready" when a stage has died (before 25.12)
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request

URLS = {"gateway": "http://127.0.0.1:8000", "triton": "http://127.0.0.1:9000"}
SECONDS = 12
SAMPLES = 16_000  # of silence: enough for any frame's context


def trouble(what: str, url: str) -> str | None:
    """Why it is not well; None: it is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this container's own port
    if what == "gateway":
        request = urllib.request.Request(f"{url}/readyz")
    else:
        speech = {"name": "AUDIO", "datatype": "FP32", "shape": [SAMPLES], "data": [0.0] * SAMPLES}
        one = {"name": "FRAME_COUNT", "datatype": "INT32", "shape": [1], "data": [1]}
        body = {"inputs": [speech, one], "outputs": [{"name": "FRAME_INDEX"}]}
        request = urllib.request.Request(
            f"{url}/v2/models/lipsync_ensemble/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}: {error.read(500).decode(errors='replace')}"
    except OSError as error:
        return f"{url} does not answer: {error}"
    return None


if __name__ == "__main__":
    kind = sys.argv[1]
    if found := trouble(kind, sys.argv[2] if len(sys.argv) > 2 else URLS[kind]):
        sys.exit(found)

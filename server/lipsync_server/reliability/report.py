"""What was found, as Markdown: the bounds, kept or not, and the figures behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lipsync_server.benchmark.results import spread
from lipsync_server.reliability.bounds import Bound, bounds

__all__ = ["write_report"]

Found = dict[str, Any]
LEVELS = ["memory, MB", "size of files in /dev/shm, MB", "file descriptors"]

INTRODUCTION = """
Written by `make reliability` from {results}. Each part has a `lipsync serve` of its own: supervisor, Triton, its
stages and the gateway. The settings are those as shipped, but for free ports, and 10 s for a body instead of 60 s. In
every part but the speed, two live sessions speak and a speech is rendered meanwhile. Each of their frames is compared,
byte for byte, with the frame that the same networks make of the whole speech in one process, without a server. A bound
that was not kept is marked **failed**. `python -m lipsync_server.reliability --parts speed` measures one part again;
`--help` lists the rest.
"""


def write_report(found: Found, path: Path, results: str) -> None:
    """Write the report.

    Args:
        found: by part: the machine, the sizes, and what was found.
        path: of the report.
        results: the name of the file with the results, for readers.
    """
    sections: dict[str, Callable[[Found], str]] = {
        "attacks": _attacks,
        "kills": _kills,
        "speed": _speed,
        "soak": _soak,
    }
    text = f"# Reliability\n{INTRODUCTION.format(results=f'`{results}`')}"
    text += "\n## In short\n\n" + _table(["part", "what", "found", "bound", ""], _in_short(found))
    for part, write in sections.items():
        if part in found:
            text += write(found[part]["found"]) + _measured_on(found[part])
    path.write_text(text, encoding="utf-8")


def _in_short(found: Found) -> list[list[str]]:
    def row(part: str, bound: Bound) -> list[str]:
        return [part, bound.what, bound.value, bound.allowed, "kept" if bound.kept else "**failed**"]

    return [row(part, bound) for part in found for bound in bounds(part, found[part]["found"])]


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _measured_on(part: Found) -> str:
    machine = part["machine"]
    return f"\nMeasured on {machine['date']}: {machine['CPU']}; Python {machine['Python']}, {machine['versions']}.\n"


def _attacks(found: Found) -> str:
    text = (
        f"\n## Malformed requests\n\n{found['requests']} requests from four clients at once, in"
        f" {found['seconds']:.0f} s: over KServe's gRPC, over HTTP, and over the monolithic API. Each has a time-out of"
        f" 60 s. The slowest answer took {found['slowest_s']:.1f} s.\n\n"
    )
    text += _answers(found["counts"]) + _unexpected(found) + "\n" + _good(found["good"])
    rows = [
        [name, *(f"{found['levels'][name][figure]:.0f}" for figure in ("memory_mb", "shared_mb", "descriptors"))]
        for name in ("before", "warm", "end", "after")
    ]
    text += (
        "\nMemory of all processes (proportional set size, so what they share counts once), medians. Warm: from a tenth"
        " to a quarter of the requests. After: the live streams have gone on alone for a while. Triton's shared memory"
        " grows to what the largest requests needed at once, and stays.\n\n"
    )
    text += _table(["", *LEVELS], rows)
    text += f"\nThe peak was {found['peak_mb']:.0f} MB. By process:\n\n"
    before, after = found["processes_mb"]["before"], found["processes_mb"]["after"]
    names = [name for name in before if name in after]
    rows = [[name, f"{before[name]:.0f}", f"{after[name]:.0f}"] for name in names]
    return text + _table(["process", "before, MB", "after, MB"], rows)


def _answers(counts: dict[str, int]) -> str:
    """A row for each kind of request, with its answers."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for key, count in counts.items():
        port, kind, answer = key.split("|")
        rows.setdefault((port, kind), Counter())[answer] += count
    order = {"grpc": 0, "http": 1, "monolithic": 2}
    listed = [
        [port, kind, ", ".join(f"{answer} {count}" for answer, count in answers.most_common())]
        for (port, kind), answers in sorted(rows.items(), key=lambda row: (order[row[0][0]], row[0][1]))
    ]
    return _table(["port", "what is malformed", "answers"], listed)


def _unexpected(found: Found) -> str:
    if not found["unexpected"]:
        return "\nNo other answer came.\n"
    rows = [[*key.replace("|", ": ").split("\n")[:1], str(count)] for key, count in found["unexpected"].items()]
    examples = "".join(f"- {' '.join(example.split())}\n" for example in found["examples"][:5])
    return "\nAnswers that should not be:\n\n" + _table(["what", "times"], rows) + f"\n{examples}"


def _good(good: Found) -> str:
    text = (
        f"Good callers meanwhile: {good['speeches']} live speeches with {good['frames']} frames, {good['renderings']} "
        f"renderings with {good['frames_rendered']} frames; lost {good['lost']}, twice {good['doubled']}, wrong "
        f"{good['wrong']}. For {good['late']} frame times a live speech waited for its next frame, because the machine"
        " was too busy or the server was away.\n"
    )
    return text + "".join(f"- {failure}\n" for failure in good["failures"])


def _kills(found: Found) -> str:
    text = (
        "\n## Killed processes\n\n`kill -9` of each process, under two live streams and renderings. Not ready: when"
        " `/readyz` said so. Ready: when frames were made again, with another process. Stood still: the longest that a"
        " live speech waited for a frame.\n\n"
    )
    rows = [
        [
            one["name"],
            f"{one['unready_s']:.1f}" if one["unready"] else "never",
            *(f"{one[key]:.1f}" for key in ("ready_s", "stood_still_s")),
        ]
        for one in found["kills"]
    ]
    text += _table(["process", "not ready after, s", "ready after, s", "stood still, s"], rows)
    return text + "\n" + _good(found["good"])


def _speed(found: Found) -> str:
    text = (
        "\n## What the gateway and idle connections cost\n\nIn turn; medians and (lowest to highest). Throughput: four"
        " callers of 25 frames each. Latency: one caller of one frame. Idle: beside 500 connections to each of the"
        " three ports, over which nothing is asked; the gateway closes those to its HTTP port after 10 s without"
        " headers.\n\n"
    )
    names = {"direct": "Triton itself", "gateway": "through the gateway", "idle": "the same, with idle connections"}
    rows = [[label, spread(found[name]["frames_s"]), spread(found[name]["p50_ms"], 2)] for name, label in names.items()]
    return text + _table(["", "frames/s", "p50 of one frame, ms"], rows)


def _soak(found: Found) -> str:
    text = (
        f"\n## Soak\n\n{found['minutes']:.0f} minutes with two live streams, a rendering every minute and an attack"
        f" every minute: {found['attacks']} attacks with {found['requests']} malformed requests.\n\n"
    )
    text += _good(found["good"]) + _unexpected(found) + "\n"
    rows = [
        [str(number + 1), *(f"{quarter[figure]:.0f}" for figure in ("memory_mb", "shared_mb", "descriptors"))]
        for number, quarter in enumerate(found["quarters"])
    ]
    text += _table(["quarter", *LEVELS], rows)
    half = found["samples"][len(found["samples"]) // 2 :]
    return text + (
        "\nThe table has medians. The bound compares lower quartiles: what is held between the attacks, whose messages"
        f" of 120 MB make peaks. In the last half, memory was between {min(half):.0f} and {max(half):.0f} MB.\n"
    )

"""Finds the fastest way to run a network by running it: what a CPU can compute does not tell how fast it does.

Ways are run in turn, for a moment each, so that a machine that slows down slows all of them. What was found is kept in
a file of the user's cache folder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lipsync_onnx.cpu import cpu_kind

ROUNDS = 3
SECONDS = 1.0 / ROUNDS  # of a way in a round
HOPELESS = 0.6  # of the fastest way's speed: a slower way is not run again
CLEARLY = 1.1  # times as fast must a way be to be preferred to an earlier one: less may be chance
ENGINES = ("onnxruntime", "openvino")  # packages

Measure = Callable[[float], float]  # runs a network for some seconds -> rows a second
Open = Callable[[], Measure]


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        chosen: the name of a way.
        rates: rows a second of each way that ran.
        failed: why the others did not.
    """

    chosen: str
    rates: dict[str, float]
    failed: dict[str, str]

    def __str__(self) -> str:
        others = [f"{name} {rate:.1f}" for name, rate in self.rates.items() if name != self.chosen]
        others += [f"{name} failed ({reason})" for name, reason in self.failed.items()]
        found = f"{self.chosen} {self.rates[self.chosen]:.1f} rows/s"
        return f"{found}; {', '.join(others)}" if others else found


def fastest(ways: Mapping[str, Open]) -> Outcome:
    """Run each way for about a second, and choose.

    Args:
        ways: by name, the preferred ones first. A clearly slower one is given up after a third of its time.

    Raises:
        ValueError: none of them runs; the message has the reason of the first.
    """
    rates: dict[str, float] = {}
    failed: dict[str, str] = {}
    running: dict[str, Measure] = {}
    for _ in range(ROUNDS):
        for name, opened in ways.items():
            best = max(rates.values(), default=0.0)
            if name in failed or rates.get(name, best) < HOPELESS * best:
                continue
            try:
                measure = running.get(name) or running.setdefault(name, opened())
                rates[name] = max(rates.get(name, 0.0), measure(SECONDS))
            except Exception as error:
                failed[name] = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
                rates.pop(name, None)
    if not rates:
        raise ValueError(f"the network runs in no way: {next(iter(failed.values()))}")
    chosen = next(name for name in ways if rates.get(name, 0.0) * CLEARLY >= max(rates.values()))
    return Outcome(chosen, rates, failed)


def rows_a_second(run: Callable[[], object], callers: int) -> Measure:
    """Measures a network that `callers` threads run, a row at a time; it is run once in each before."""

    def repeat(until: float) -> int:
        rows = 0
        while True:
            run()
            rows += 1
            if time.perf_counter() >= until:
                return rows

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(repeat, [0.0] * callers))

    def measure(seconds: float) -> float:
        with ThreadPoolExecutor(callers) as pool:
            begin = time.perf_counter()
            rows = sum(pool.map(repeat, [begin + seconds] * callers))
            return rows / (time.perf_counter() - begin)

    return measure


class Findings:
    """What trials found on this machine, in a JSON file. One that cannot be read or written holds nothing.

    Args:
        path: the file; by default `lipsync/trials.json` in the user's cache folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _user_cache() / "lipsync" / "trials.json"

    def find(self, key: str, measure: Callable[[], Outcome]) -> Outcome:
        """What is kept under a key; else what is measured now. An outcome with a failure is not kept: the next trial
        may have none.
        """
        if known := self.get(key):
            return known
        found = measure()
        if not found.failed:
            self.put(key, found)
        return found

    def get(self, key: str) -> Outcome | None:
        """What is kept under a key."""
        with suppress(KeyError, TypeError, ValueError):
            kept: Any = self._kept()[key]
            rates = {str(name): float(rate) for name, rate in kept["rates"].items()}
            return Outcome(kept["chosen"], rates, {}) if kept["chosen"] in rates else None
        return None

    def put(self, key: str, found: Outcome) -> None:
        """Keep an outcome, where the file can be written."""
        draft = self._path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(self._kept() | {key: asdict(found)}, indent=1))
            draft.replace(self._path)

    def _kept(self) -> dict[str, dict[str, object]]:
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}


def trial_key(ways: Iterable[str], *about: str) -> str:
    """What an outcome depends on: the kind of CPU, the engines' versions, the ways, and what tells networks apart."""
    return " ".join([cpu_kind(), *(f"{name}={_version(name)}" for name in ENGINES), *about, *ways])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _user_cache() -> Path:
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return stated if stated.is_absolute() else Path(os.environ.get("HOME", "/nonexistent")) / ".cache"

"""Opens the page of `lipsync web` in a real browser: for tests, measurements and the picture in the docs.

python scripts/web_page.py measure --seconds 60     # sound against picture, by microphone, with a Triton of its own
python scripts/web_page.py screenshot               # docs/web.jpg, of the demo avatar

Needs Chromium (Debian: apt-get install chromium) and the extra `test`. `measure` packs the demo as preset `low`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_server import home

WAIT_S = 60.0  # for anything that must happen
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",  # it runs as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# Notes every picture as it is drawn: [frame's number, its number in the speech, samples, offset s]; and what is heard.
WATCH = """async () => {
  const { player } = await import("/main.js");
  const drawn = [], sounds = [], heard = [];
  let start = null;
  const { onDrawn } = player, push = player.push.bind(player);
  player.onDrawn = (now) => {
    drawn.push([now.frame.index, now.frame.speechFrame, now.frame.sound.length, now.offset]);
    onDrawn(now);
  };
  player.push = (frame) => {
    push(frame);
    const { at } = player.queue.at(-1);
    if (frame.sound.length) sounds.push([Math.round(at * player.soundRate), frame.sound]);
  };
  await player.context.audioWorklet.addModule("/element/recorder.js");
  const options = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
  const recorder = new AudioWorkletNode(player.context, "recorder", options);
  recorder.port.onmessage = ({ data: { at, samples } }) => {
    start ??= at;
    samples.forEach((sample, i) => (heard[at - start + i] = sample));
  };
  player.volume.connect(recorder);
  // Of how many frames all was recorded; and of how many it was the frame's own sound at the frame's own time.
  const compare = () => {
    let recorded = 0, right = 0;
    for (const [at, sound] of sounds) {
      const differences = Array.from(sound, (value, i) => Math.abs(value / 32768 - heard[at - start + i]));
      recorded += differences.every((difference) => difference >= 0);
      right += differences.every((difference) => difference < 1e-4);
    }
    return { recorded, right };
  };
  globalThis.watch = { player, drawn, sounds, compare };
}"""

# Presses Escape: how long until a picture of the resting face is drawn, and talking ones that were drawn after.
INTERRUPT = """async () => {
  const drawn = watch.drawn.length, pressed = performance.now();
  window.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  while (!watch.drawn.slice(drawn).some(([, frame]) => frame < 0)) await new Promise(requestAnimationFrame);
  const ms = performance.now() - pressed;
  await new Promise((done) => setTimeout(done, 2000));
  return { ms, talking: watch.drawn.slice(drawn).filter(([, frame]) => frame >= 0).length };
}"""


@contextlib.contextmanager
def browsing(microphone: Path | None = None) -> Iterator[Any]:
    """A headless Chromium, driven by Playwright. Its microphone plays the WAV file `microphone` once."""
    from playwright.sync_api import sync_playwright

    arguments = [*ARGUMENTS, *([f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def serving_page(server: str, *options: str) -> Iterator[LipsyncWeb]:
    """`lipsync web` for a lip-sync server, on a free port."""
    with LipsyncWeb("--server", server, *options) as web:
        yield web


class LipsyncWeb:
    """The running command `lipsync web`. `url` is the address that it prints."""

    def __init__(self, *options: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "lipsync_client.cli.main", "web", "--port", str(port), *options]
        environment = {**os.environ, "COLUMNS": "120"}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)/\S*", line)
        if found is None:
            raise RuntimeError(f"lipsync web did not start: {line}")
        self.url, self.port = found[0], int(found[1])

    def stop(self) -> int:
        """Stop the command as Ctrl-C does. Returns the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(WAIT_S)

    def __enter__(self) -> LipsyncWeb:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def opened(context: Any, url: str, avatar: str | None = None) -> Any:
    """Open a page in a browser's context. It is connected and shows an avatar."""
    page = context.new_page()
    page.set_default_timeout(WAIT_S * 1000)
    page.goto(url)
    page.wait_for_selector("#link[data-kind=good]")
    if avatar:
        page.select_option("#avatar", avatar)
        page.wait_for_selector(f"#face[aria-label='The face of {avatar}']")
    return page


def until(page: Any, expression: str, wait_s: float = WAIT_S) -> None:
    """Wait until an expression is true in a page. Playwright's own way needs `eval`, which the page forbids."""
    deadline = time.monotonic() + wait_s
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {wait_s:g} s: {expression}")
        page.wait_for_timeout(20)


def write_speech(path: Path, seconds: float, lead: float = 0.5) -> Path:
    """Write a WAV file of 48 kHz: a moment of silence, then the speech sample again and again."""
    from lipsync_client import to_speech

    sample = to_speech(home.read_sample(), 16_000, to_rate=48_000)
    samples = np.pad(np.resize(sample, round(seconds * 48_000)), (round(lead * 48_000), 0))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def offsets_of(page: Any) -> NDArray[np.float64]:
    """Delay in ms of each talking picture drawn so far, after the begin of its sound. `WATCH` must run."""
    drawn = page.evaluate("watch.drawn")
    return np.array([offset * 1000 for _, _, samples, offset in drawn if samples and offset is not None])


@contextlib.contextmanager
def _own_server(preset: str | None) -> Iterator[tuple[str, str]]:
    """A Triton on a copy of the repository: its address, and the avatar's name."""
    from lipsync_client import Control
    from lipsync_server.repository.build import build
    from lipsync_server.repository.package import package_avatar
    from lipsync_server.repository.source import AvatarSource
    from lipsync_server.serving import Ports, ServerConfig, TritonServer

    build()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        shutil.copytree(home.repository(), repository, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
        if preset:
            source = Path(folder) / "quick"
            shutil.copytree(home.AVATARS / "demo", source)
            text = (source / "avatar.yaml").read_text().replace("id: demo", "id: quick")
            (source / "avatar.yaml").write_text(f"{text}\npreset: {preset}\n")
            package_avatar(AvatarSource.read(source), repository)
        with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as server:
            if preset:
                with Control(server.grpc_url, key=server.control_key) as control:
                    control.load("quick")
            yield server.grpc_url, "quick" if preset else "demo"


def measure(seconds: float) -> None:
    """Speak into the page's microphone for a while and print the measurements."""
    with tempfile.TemporaryDirectory() as folder, _own_server("low") as (server, avatar):
        speech = write_speech(Path(folder) / "speech.wav", seconds)
        with serving_page(server, "--avatar", avatar) as web, browsing(speech) as browser:
            page = opened(browser.new_context(), web.url)
            page.evaluate(WATCH)
            page.click("#sound")
            page.click("#sound")  # on, by choice: also while the microphone is on
            page.click("#microphone")
            page.wait_for_timeout(seconds * 1000)
            offsets, match = offsets_of(page), page.evaluate("watch.compare()")
            silenced = page.evaluate(INTERRUPT)
            page.click("summary")
            for name in ("fps", "delay", "offset"):
                print(f"{name}: {page.inner_text(f'#{name}')} ({page.inner_text(f'#{name}-note')})")
    print(
        f"interrupted: {silenced['talking']} talking pictures drawn after, the face rests after {silenced['ms']:.0f} ms"
    )
    print(f"{len(offsets)} talking pictures in {seconds:g} s of speech")
    print(f"offset, ms: median {np.median(offsets):.1f}, least {offsets.min():.1f}, most {offsets.max():.1f}")
    print(f"beyond 40 ms: {np.count_nonzero(np.abs(offsets) > 40)}")
    print(f"sound: {match['recorded']} frames heard, {match['right']} of them exactly at their time")


def screenshot(target: Path) -> None:
    """Take a picture of the page while the demo avatar speaks, as JPEG."""
    from PIL import Image

    with _own_server(None) as (server, avatar), serving_page(server, "--avatar", avatar) as web, browsing() as browser:
        page = opened(browser.new_context(viewport={"width": 1180, "height": 650}, color_scheme="dark"), web.url)
        page.evaluate(WATCH)
        page.fill("#text", "Hello! Ask me anything, and interrupt me whenever you like.")
        page.locator("#text").blur()
        page.set_input_files("#file-input", str(home.SAMPLE))
        sample = home.read_sample()
        loudness = np.square(sample[: len(sample) // 640 * 640]).reshape(-1, 640).mean(1)
        loudest = int(np.convolve(loudness[:100], np.ones(5), "same").argmax())  # the mouth is open then
        until(page, f"watch.drawn.some(([, frame]) => frame >= {loudest})")
        picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").save(target, quality=88, optimize=True)
    print(f"Wrote {target}, {target.stat().st_size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure").add_argument("--seconds", type=float, default=60.0)
    commands.add_parser("screenshot").add_argument("target", nargs="?", type=Path, default=Path("docs/web.jpg"))
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("There is no Chromium: on Debian, apt-get install chromium.")
    if options.command == "measure":
        measure(options.seconds)
    else:
        screenshot(options.target)


if __name__ == "__main__":
    main()

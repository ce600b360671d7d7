"""`<lipsync-face>` on a page of another origin, in a real Chromium, with a real `lipsync web` and a real Triton."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from checkout import ROOT
from web_page import CHROMIUM, LipsyncWeb, browsing, until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt-get install chromium)")

EXAMPLE = (ROOT / "examples" / "embed" / "index.html").read_text()
COUNT = """() => {
  globalThis.seen = {};
  for (const face of document.querySelectorAll("lipsync-face"))
    for (const name of ["ready", "speaking", "idle", "error", "picture"])
      face.addEventListener(name, () => (seen[face.id + " " + name] = (seen[face.id + " " + name] ?? 0) + 1));
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[tuple[str, Path]]:
    """Another origin: its address, and the folder of its pages."""
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> Iterator[tuple[tuple[str, Path], tuple[str, Path]]]:
    folder = tmp_path_factory.mktemp("sites")
    with site(folder / "allowed") as allowed, site(folder / "other") as other:
        yield allowed, other


@pytest.fixture(scope="module")
def web(server, quick, sites) -> Iterator[LipsyncWeb]:
    with LipsyncWeb("--server", server.grpc_url, "--avatar", quick, "--allow-origin", sites[0][0]) as web:
        one = EXAMPLE.replace("http://localhost:8080/", web.url)
        two = one.replace("<button", '<lipsync-face id="other" muted></lipsync-face><button')
        for _, folder in sites:
            (folder / "index.html").write_text(one)
            (folder / "two.html").write_text(two)
            (folder / "frame.html").write_text(f'<iframe src="{web.url}" title="face"></iframe>')
        yield web


def test_a_face_on_an_allowed_page_speaks_and_is_interrupted(web, sites, browser) -> None:
    page = browser.new_page()
    page.goto(sites[0][0])
    page.evaluate(COUNT)
    until(page, "seen['face picture'] > 3")
    assert page.evaluate("document.querySelector('#face').getAttribute('aria-label')").startswith("The face of")
    if page.evaluate("document.querySelector('#face').server.voice === null"):
        pytest.skip("there is no speech synthesiser on this machine")
    page.click("#hello")
    until(page, "seen['face speaking'] === 1")
    page.evaluate("document.querySelector('#face').interrupt()")
    until(page, "seen['face idle'] === 1")
    assert page.evaluate("seen['face error'] ?? 0") == 0
    page.close()


def test_two_faces_on_a_page_speak_by_themselves(web, sites, browser) -> None:
    page = browser.new_page()
    page.goto(f"{sites[0][0]}/two.html")
    page.evaluate(COUNT)
    until(page, "seen['face picture'] > 3 && seen['other picture'] > 3")
    page.evaluate(
        """async () => {
          const sound = new AudioBuffer({ length: 32000, sampleRate: 16000 });
          sound.getChannelData(0).forEach((_, i, all) => (all[i] = Math.sin(i / 9) / 2));
          globalThis.lasted = await document.querySelector("#other").play(sound);
        }"""
    )
    until(page, "seen['other speaking'] === 1")
    assert page.evaluate("lasted") == 2
    assert page.evaluate("document.querySelector('#face').state") == "idle"
    until(page, "seen['other idle'] === 1")
    page.evaluate("document.querySelector('#other').remove()")
    drawn = page.evaluate("seen['face picture']")
    until(page, f"seen['face picture'] > {drawn} + 3")  # the other one goes on
    page.close()


def test_a_page_that_is_not_allowed_gets_no_face_and_no_frame(web, sites, browser) -> None:
    page, refused = browser.new_page(), []
    page.on("console", lambda line: refused.append(line.text))
    page.goto(sites[1][0])
    until(page, "true")
    page.wait_for_timeout(1000)
    assert page.evaluate("customElements.get('lipsync-face') === undefined")
    assert "CORS" in " ".join(refused)
    outcome = page.evaluate(
        f"""new Promise((done) => {{
          const socket = new WebSocket("{web.url.replace("http", "ws")}live");
          socket.onopen = () => done("open");
          socket.onerror = () => done("refused");
        }})"""
    )
    assert outcome == "refused"
    page.goto(f"{sites[1][0]}/frame.html")
    page.wait_for_timeout(500)
    assert page.frames[1].url.startswith("chrome-error") or not page.frames[1].query_selector("#stage")
    page.goto(f"{sites[0][0]}/frame.html")
    page.frame_locator("iframe").locator("#link[data-kind=good]").wait_for()
    page.close()

"""Text becomes speech: by programs of this machine, and by a speech service over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lipsync_client import LipsyncError
from lipsync_client.cli.voices import voices_of
from lipsync_client.voices import programs, speech_api
from lipsync_client.voices.programs import EspeakNg, Flite, Piper, installed
from lipsync_client.voices.speech_api import SpeechApi
from lipsync_client.voices.voice import Voice, language_of
from lipsync_client.voices.voices import Voices

PCM = (8000 * np.sin(np.arange(36_000) / 9)).astype("<i2").tobytes()


def spoken(speaker: Voice | Voices, text: str, **options: Any) -> tuple[np.ndarray, int]:
    async def main() -> tuple[np.ndarray, int]:
        sounds = [sound async for sound in speaker.speak(text, **options)]
        assert len({sound.rate for sound in sounds}) == 1
        return np.frombuffer(b"".join(sound.pcm for sound in sounds), "<i2"), sounds[0].rate

    return asyncio.run(main())


def program(name: str) -> Any:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return {"flite": Flite, "espeak-ng": EspeakNg}[name](path)


@pytest.mark.parametrize("name", ["flite", "espeak-ng"])
def test_a_program_speaks_text_and_takes_nothing_in_it_for_an_option(name: str, tmp_path: Path) -> None:
    voices = Voices([program(name)])
    samples, rate = spoken(voices, "Hello, how are you?")
    assert 8000 <= rate <= 48000 and 0.5 < len(samples) / rate < 5
    assert np.abs(samples).max() > 3000
    odd = f"-o {tmp_path / 'trap.wav'} $(touch {tmp_path / 'trap'})\n--version \x00 ünïcode"
    assert len(spoken(voices, odd)[0]) > 5_000
    assert not list(tmp_path.iterdir())
    for nothing in ("", " ... ", "\x00\n"):
        with pytest.raises(LipsyncError, match="nothing in that text"):
            spoken(voices, nothing)


def test_chinese_goes_past_flite_to_a_voice_that_speaks_it() -> None:
    flite, espeak = program("flite"), program("espeak-ng")
    both = Voices([flite, espeak])
    assert both.check("Hello.")[0] is flite
    assert both.check("你好")[0] is both.check("Say 你好 to her")[0] is espeak
    samples, rate = spoken(both, "你好，今天天气很好。")
    assert len(samples) / rate > 1
    with pytest.raises(LipsyncError, match=r"No voice on this server \(flite\) speaks Chinese"):
        spoken(Voices([flite]), "你好")


def test_the_language_chosen_is_the_language_spoken() -> None:
    both = Voices([program("flite"), program("espeak-ng")])
    text = "Die Sonne scheint."
    assert both.check(text, language="de")[0].name == "espeak-ng"
    german, _ = spoken(both, text, language="de")
    english, _ = spoken(both, text, voice="espeak-ng", language="en-GB")
    assert not np.array_equal(german, english)
    assert len(spoken(both, "Bom dia", language="pt_BR")[0]) > 5_000
    with pytest.raises(LipsyncError, match="The voice flite does not speak de"):
        both.check(text, voice="flite", language="de")
    for wrong in ("-h", "de; rm", "x" * 50):
        with pytest.raises(LipsyncError, match="is no language"):
            both.check(text, language=wrong)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello", "en"),
        ("Größe", "en"),
        ("123", "en"),
        ("你好", "zh"),
        ("I am 小明, and I say hello to everybody", "zh"),
        ("日本語のテキスト", "ja"),
        ("한국어 漢字", "ko"),
        ("Привет, Bob", "ru"),
        ("Bob loves his π", "en"),
        ("שלום", "he"),
        ("नमस्ते", "hi"),
    ],
)
def test_the_script_tells_the_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_piper_speaks_where_it_is_installed(tmp_path: Path) -> None:
    folder = os.environ.get("LIPSYNC_PIPER_VOICES")
    if not folder or not shutil.which("piper"):
        pytest.skip("no piper on PATH with a voice in LIPSYNC_PIPER_VOICES")
    piper = installed(Path(folder))[0]
    assert isinstance(piper, Piper) and piper.languages and "en" in piper.languages
    samples, rate = spoken(Voices([piper]), "Hello, how are you?")
    assert 0.5 < len(samples) / rate < 5 and np.abs(samples).max() > 3000


def test_a_folder_without_voices_of_piper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LipsyncError, match=r"cannot be used: (no \.onnx|the program piper)"):
        installed(tmp_path)
    (tmp_path / "a.onnx").touch()
    (tmp_path / "a.onnx.json").write_text('{"audio": 1}')
    with pytest.raises(LipsyncError, match="is no voice of Piper"):
        Piper("piper", tmp_path / "a.onnx")


@pytest.mark.parametrize(("script", "words"), [("sleep 60", "took longer than 1 s"), ("exit 1", "could not speak")])
def test_a_program_that_hangs_or_fails_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    broken = tmp_path / "flite"
    broken.write_text(f"#!/bin/sh\nexec {script}\n" if "sleep" in script else f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setattr(programs, "TIME_OUT", 1.0)
    with pytest.raises(LipsyncError, match=words):
        spoken(Voices([Flite(str(broken))]), "Hello")


class Service(BaseHTTPRequestHandler):
    """A speech service; `answer` of its server says what it does."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.asked.append((self.path, dict(self.headers), json.loads(self.rfile.read(length))))  # type: ignore[attr-defined]
        self.server.answer(self)  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def service(answer: Any) -> Iterator[tuple[str, list[Any]]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.asked, server.answer = [], answer  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", server.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()


def send(handler: Service, body: bytes, kind: str = "audio/pcm", status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_service_is_asked_as_openai_says_and_its_samples_come_whole() -> None:
    with service(lambda handler: send(handler, PCM)) as (url, asked):
        samples, rate = spoken(SpeechApi(url, "secret", model="m", voice="v"), "你好 ü", language="zh")
    assert (samples.tobytes(), rate) == (PCM, 24_000)
    ((path, headers, body),) = asked
    assert (path, headers["Authorization"]) == ("/v1/audio/speech", "Bearer secret")
    assert body == {"model": "m", "voice": "v", "input": "你好 ü", "response_format": "pcm"}


def test_a_service_that_gives_wav_is_understood() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as speech:
        speech.setparams((1, 2, 16_000, 0, "NONE", ""))
        speech.writeframes(PCM)
    with service(lambda handler: send(handler, file.getvalue(), "audio/wav")) as (url, _):
        samples, rate = spoken(SpeechApi(url), "Hello", language="en")
    assert (samples.tobytes(), rate) == (PCM, 16_000)


def test_the_first_sound_comes_before_the_service_has_spoken_to_the_end() -> None:
    heard = threading.Event()

    def answer(handler: Service) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(PCM[:9_601])  # an odd number: half a sample
        handler.wfile.flush()
        assert heard.wait(20)
        handler.wfile.write(PCM[9_601:])

    async def main(url: str) -> bytes:
        got = b""
        async for sound in SpeechApi(url).speak("Hello", "en"):
            got += sound.pcm
            heard.set()
        return got

    with service(answer) as (url, _):
        assert asyncio.run(main(url)) == PCM


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda handler: send(handler, b"{}", "application/json", 401), "refuses this site: its key"),
        (lambda handler: send(handler, b"{}", "application/json", 429), "too much to do"),
        (lambda handler: send(handler, b"{}", "application/json", 400), r"does not take that text \(status 400\)"),
        (lambda handler: send(handler, b"", status=503), "does not answer now"),
        (lambda handler: send(handler, b"", status=302, Location="http://127.0.0.1:9/"), "does not answer now"),
        (lambda handler: send(handler, b'{"error": 1}', "application/json"), "a text instead of sound"),
        (lambda handler: send(handler, b""), "gave no sound"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "does not answer now"),
        (lambda handler: handler.connection.close(), "does not answer now"),
    ],
)
def test_what_goes_wrong_at_a_service_is_one_sentence(answer: Any, words: str) -> None:
    with service(answer) as (url, asked), pytest.raises(LipsyncError, match=words):
        spoken(SpeechApi(url, "secret"), "Hello", language="en")
    assert len(asked) == 1


def test_a_service_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_api, "TIME_OUT", 0.3)
    silent = threading.Event()
    with service(lambda handler: silent.wait(20)) as (url, _):
        with pytest.raises(LipsyncError, match="does not answer now"):
            spoken(SpeechApi(url), "Hello", language="en")
        silent.set()


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("ftp://host/v1", None, "is no address"),
        ("host/v1", None, "is no address"),
        ("http://tts.example.org/v1", "secret", "travel unencrypted"),
    ],
)
def test_an_address_that_cannot_serve_is_refused(url: str, key: str | None, words: str) -> None:
    with pytest.raises(LipsyncError, match=words):
        SpeechApi(url, key)


def test_the_named_service_comes_first_and_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSYNC_VOICE_KEY", "secret")
    with service(lambda handler: send(handler, PCM)) as (url, asked):
        voices = voices_of(url, "m", "v", None)
        assert voices is not None and voices.offered[0] == {"name": "service", "languages": None}
        spoken(voices, "สวัสดี")
    assert asked[0][1]["Authorization"] == "Bearer secret"
    monkeypatch.setenv("PATH", "")
    assert voices_of(None, "m", "v", None) is None

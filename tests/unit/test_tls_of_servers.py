"""Certificates of the page and of the gateway: what is served, and what is refused before anything starts."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from client_fake import WAIT_S, running
from test_client_access import certificate
from web_fake import WebFake
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from lipsync_client import LipsyncError
from lipsync_client.tls import check_certificate
from lipsync_server.gateway.doors import server_credentials

OPENED = re.compile(r"Open https://localhost:(\d+)/ \(Ctrl-C stops\)\n")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that is valid now, and its key."""
    return certificate(tmp_path_factory.mktemp("pair"), "DNS:localhost")


def dated(folder: Path, begin: str, end: str) -> tuple[Path, Path]:
    """A certificate for a time, signed by an authority that is not in its file."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    request, ca = folder / "request.pem", folder / "ca.cnf"
    (folder / "authority").mkdir()
    authority, authority_key = certificate(folder / "authority", "DNS:authority")
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    ca.write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index.txt\nserial={folder}/serial\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nbasicConstraints=CA:FALSE\n"
    )
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    sign = [
        "openssl",
        "ca",
        "-batch",
        "-cert",
        str(authority),
        "-config",
        str(ca),
        "-startdate",
        begin,
        "-enddate",
        end,
        "-notext",
    ]
    for command in (
        [*new, "-keyout", str(key), "-out", str(request)],
        [*sign, "-keyfile", str(authority_key), "-in", str(request), "-out", str(file)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return file, key


def test_a_pair_that_is_valid_is_taken(pair: tuple[Path, Path], tmp_path: Path) -> None:
    check_certificate(*pair)
    check_certificate(*dated(tmp_path, "20200101000000Z", "20990101000000Z"))


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [("20200101000000Z", "20200201000000Z", "has expired"), ("20980101000000Z", "20990101000000Z", "not valid yet")],
)
def test_a_certificate_of_another_time_is_refused_everywhere(tmp_path: Path, begin: str, end: str, says: str) -> None:
    file, key = dated(tmp_path, begin, end)
    for refuse in (check_certificate, lambda file, key: server_credentials(str(file), str(key))):
        with pytest.raises(LipsyncError, match=f"{file.name} .*{says}"):
            refuse(file, key)


def test_files_that_are_no_pair_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = certificate(tmp_path, "DNS:localhost")
    file, key = pair
    for wrong, says in (
        ((file, other), "belong together"),
        ((key, file), "belong together"),
        ((file, tmp_path / "nothing"), "cannot be read: No such file"),
        ((tmp_path, key), "cannot be (read|used)"),
    ):
        with pytest.raises(LipsyncError, match=says):
            check_certificate(*wrong)


@pytest.mark.slow
def test_the_page_and_its_websocket_speak_tls(pair: tuple[Path, Path]) -> None:
    file, key = pair
    trusting = ssl.create_default_context(cafile=str(file))

    async def join(port: int, origin: str) -> bool:
        try:
            async with connect(f"wss://localhost:{port}/live", ssl=trusting, origin=origin, proxy=None):  # type: ignore[arg-type]
                return True
        except InvalidStatus:
            return False

    with running(WebFake()) as fake:
        command = [sys.executable, "-m", "lipsync_client.cli.main", "web", "--server", fake.url, "--port", "0"]
        command += ["--tls-cert", str(file), "--tls-key", str(key)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            found = OPENED.fullmatch(process.stdout.readline())
            assert found is not None
            port = int(found[1])
            with urllib.request.urlopen(f"https://localhost:{port}/", timeout=WAIT_S, context=trusting) as page:
                assert b"<html" in page.read()
            assert asyncio.run(join(port, f"https://localhost:{port}"))
            assert not asyncio.run(join(port, "https://evil.example.org"))
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/", timeout=WAIT_S)
        finally:
            process.kill()
            process.wait(WAIT_S)


@pytest.mark.slow
def test_the_page_says_what_is_wrong_with_its_certificate(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file, key = map(str, pair)
    for options, says in (
        (["--tls-cert", file], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", key, "--tls-key", key], "cannot be used"),
    ):
        command = [sys.executable, "-m", "lipsync_client.cli.main", "web", "--port", "0", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert says in done.stderr

"""Checks a server's certificate before the server starts."""

from __future__ import annotations

import ssl
from pathlib import Path

from lipsync_client.errors import LipsyncError

__all__ = ["check_certificate"]

EXPIRED, NOT_YET_VALID = 10, 9  # OpenSSL's numbers


def check_certificate(certificate: str | Path, key: str | Path) -> None:
    """Raise LipsyncError unless two PEM files can be used as a server's certificate and its key, today.

    Who has signed the certificate is not asked: its callers decide whom they trust.
    """
    try:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate, key, password="")
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust it by itself
        trusting.load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise LipsyncError(
            f"The certificate {certificate} and the key {key} cannot be used: they must be PEM files that belong"
            f" together, the key without a password ({error.reason or 'not PEM'})."
        ) from None
    except OSError as error:
        raise LipsyncError(
            f"The certificate {certificate} or the key {key} cannot be read: {error.strerror or error}."
        ) from None
    trouble = _refusal(server, trusting)
    if trouble in (EXPIRED, NOT_YET_VALID):
        when = "has expired" if trouble == EXPIRED else "is not valid yet"
        raise LipsyncError(f"The certificate {certificate} {when}: callers would refuse it. Give a valid one.")


def _refusal(server: ssl.SSLContext, client: ssl.SSLContext) -> int:
    """Why a client refuses a server's certificate, from a handshake in memory: OpenSSL's number; 0: it does not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):  # as many flights as a handshake has
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_code
            except ssl.SSLError:  # nothing that is wrong with the date
                return 0
    return 0

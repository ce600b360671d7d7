"""Signs video files as C2PA defines it, with a certificate: Content Credentials that say that AI made the video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipsync_client.errors import LipsyncError, VideoError
from lipsync_client.extras import needs
from lipsync_composite.mark import SOURCE_TYPE

__all__ = ["Credentials"]

MEDIA_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime"}
CURVES = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}


@dataclass(frozen=True)
class Credentials:
    """Who signs. Needs the extra `c2pa`.

    Attributes:
        certificate: PEM file with the signer's certificate and those that lead from it to its root.
        key: PEM file (PKCS #8) with its private key: on an elliptic curve (P-256, P-384, P-521), RSA or Ed25519.
        time_authority: address of an RFC 3161 server that says when the file was signed; without one, the signature
            holds only while the certificate does.
    """

    certificate: Path
    key: Path
    time_authority: str | None = None

    def check(self, container: str, mark: bool) -> None:
        """Refuse what cannot be signed, before work is done for it. Raises LipsyncError."""
        if not mark:
            raise VideoError("A signature says that AI made the video: do not leave out the mark, or sign nothing.")
        if container not in MEDIA_TYPES:
            raise VideoError(f"A {container} file cannot be signed: give a name that ends in .mp4, .m4v or .mov.")
        self._signer()

    def sign(self, path: Path, container: str) -> None:
        """Replace a finished file by the same with a signed manifest.

        Args:
            path: the file.
            container: FFmpeg's name of its format: `mp4` or `mov`.

        Raises:
            VideoError: it cannot be signed.
        """
        import c2pa

        media_type = MEDIA_TYPES[container]
        signed = path.with_name(f"{path.name}.signed")
        try:
            with path.open("rb") as source, signed.open("w+b") as target:
                c2pa.Builder(_manifest(media_type)).sign(self._signer(), media_type, source, target)
            signed.replace(path)
        except (c2pa.C2paError, OSError) as error:
            raise VideoError(f"The video cannot be signed with {self.certificate} ({error}).") from error
        finally:
            signed.unlink(missing_ok=True)

    def _signer(self) -> Any:  # a c2pa.Signer; an import up here would need the extra
        with needs("c2pa"):
            import c2pa
        try:
            certificate, key = self.certificate.read_bytes(), self.key.read_bytes()
        except OSError as error:
            raise LipsyncError(f"{error.filename} cannot be read ({error.strerror}).") from None
        authority = self.time_authority.encode() if self.time_authority else None
        try:
            info = c2pa.C2paSignerInfo(_algorithm(key), certificate, key, authority)
            return c2pa.Signer.from_info(info)
        except (c2pa.C2paError, ValueError, TypeError) as error:
            raise LipsyncError(f"{self.certificate} and {self.key} cannot sign ({error}).") from error


def _algorithm(pem: bytes) -> bytes:
    """The signature algorithm of a private key. Raises ValueError, TypeError."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem, None)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    raise ValueError("the key is of a kind that C2PA does not use")


def _manifest(media_type: str) -> dict[str, object]:
    action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
    return {
        "claim_generator_info": [{"name": "lipsync-triton"}],
        "format": media_type,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }

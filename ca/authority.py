"""The decision behind CreateCertificate: who asks, may they, and what is signed. Takes bytes and `now`; no transport, no clock."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from ca.identity import Identity, IdentityError, certificate_identity
from ca.issue import chain_pem, issue_certificate
from ca.root import Root, RootError, check_root
from ca.signing import CsrRefusedError, clamp_lifetime, parse_csr
from ca.tokens import TokenTable

MAX_LIFETIME = timedelta(days=90)


class Refusal(StrEnum):
    """Why no certificate was issued."""

    UNAUTHENTICATED = "unauthenticated"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"


class RefusedError(Exception):
    """No certificate; the message is safe to show to the caller and to log."""

    def __init__(self, kind: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the caller authenticates with: a join token, or the certificate of its mutually authenticated connection."""

    token: str | None = field(default=None, repr=False)
    peer_certificate: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed certificate: PEM leaf first, root last."""

    chain: tuple[str, ...]
    identity: str
    serial: str
    not_after: datetime
    renewal: bool


@dataclass(slots=True)
class Authority:
    """Issues certificates with one root; `counts` are the numbers behind the metrics."""

    root: Root
    trust_domain: str
    lifetime: timedelta
    max_lifetime: timedelta = MAX_LIFETIME
    tokens: TokenTable = field(default_factory=TokenTable)
    counts: Counter[str] = field(default_factory=Counter)

    def create_certificate(self, csr: bytes, requested_seconds: int, credentials: Credentials, now: datetime) -> Issued:
        """Answer one request; RefusedError says why not. A request that cannot be signed does not use up its token."""
        self.counts["csr"] += 1
        try:
            key = parse_csr(csr)
        except CsrRefusedError as error:
            self.counts["csr_parsing_error"] += 1
            raise RefusedError(Refusal.INVALID, str(error)) from error
        try:
            check_root(self.root, now)
        except RootError as error:
            self.counts["csr_sign_error"] += 1
            raise RefusedError(Refusal.UNAVAILABLE, f"the authority's own root cannot issue: {error}") from error
        try:
            identity, renewal = self._authenticate(credentials, now)
        except RefusedError:
            self.counts["authentication_failure"] += 1
            raise
        lifetime = clamp_lifetime(requested_seconds, self.lifetime, self.max_lifetime)
        leaf = issue_certificate(self.root, key, identity, self.trust_domain, now, lifetime)
        self.counts["success"] += 1
        return Issued(
            chain=tuple(chain_pem(leaf, self.root)),
            identity=identity.spiffe_id(self.trust_domain),
            serial=f"{leaf.serial_number:x}",
            not_after=leaf.not_valid_after_utc,
            renewal=renewal,
        )

    def _authenticate(self, credentials: Credentials, now: datetime) -> tuple[Identity, bool]:
        """The caller, and whether it renews. A certificate counts before a token, so a renewal does not use one up."""
        if credentials.peer_certificate is not None:
            return self._certified(credentials.peer_certificate, now), True
        if credentials.token is not None:
            identity = self.tokens.redeem(credentials.token, now)
            if identity is None:
                raise RefusedError(
                    Refusal.UNAUTHENTICATED, "the join token is unknown, used or expired: ask for a new one"
                )
            return identity, False
        raise RefusedError(Refusal.UNAUTHENTICATED, "neither a join token nor a client certificate was presented")

    def _certified(self, der: bytes, now: datetime) -> Identity:
        """The holder of a certificate that this root issued. TLS has verified the chain; this does not rely on it alone."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(self.root.issuer)
            if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
                raise RefusedError(
                    Refusal.UNAUTHENTICATED, "the client certificate has expired: join again with a token"
                )
            return certificate_identity(certificate, self.trust_domain)
        except IdentityError as error:
            self.counts["id_extraction_error"] += 1
            raise RefusedError(Refusal.UNAUTHENTICATED, str(error)) from error
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise RefusedError(
                Refusal.UNAUTHENTICATED, "the client certificate is not one of this authority's"
            ) from error

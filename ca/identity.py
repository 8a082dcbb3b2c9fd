"""Who a certificate is for: namespace, service account and the DNS names registered for it."""

import re
from dataclasses import dataclass

from cryptography import x509

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_DNS_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_SPIFFE = re.compile(r"spiffe://(?P<trust_domain>[^/]+)/ns/(?P<namespace>[^/]+)/sa/(?P<service_account>[^/]+)")
_MAX_DNS_NAME = 253
_MAX_DNS_NAMES = 16


class IdentityError(ValueError):
    """The identity cannot be one of this mesh; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A workload's identity; only valid ones can be built."""

    namespace: str
    service_account: str
    dns_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise IdentityError(f"namespace {self.namespace[:80]!r} is not a DNS label")
        if len(self.service_account) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(self.service_account):
            raise IdentityError(f"service account {self.service_account[:80]!r} is not a DNS name")
        if len(self.dns_names) > _MAX_DNS_NAMES:
            raise IdentityError(f"more than {_MAX_DNS_NAMES} DNS names")
        for name in self.dns_names:
            if len(name) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(name):
                raise IdentityError(f"{name[:80]!r} is not a DNS name")

    def spiffe_id(self, trust_domain: str) -> str:
        """The URI in the certificate."""
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def check_trust_domain(name: str) -> str:
    """Return `name` if it can be a trust domain."""
    if len(name) > _MAX_DNS_NAME or name.startswith("*") or not _DNS_NAME.fullmatch(name):
        raise IdentityError(f"trust domain {name[:80]!r} is not a DNS name")
    return name


def certificate_identity(certificate: x509.Certificate, trust_domain: str) -> Identity:
    """Who a certificate we issued speaks for: its one SPIFFE URI, and the DNS names it carries."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise IdentityError("the certificate names nobody") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = _SPIFFE.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None or match["trust_domain"] != trust_domain:
        raise IdentityError(f"the certificate is not of a workload in trust domain {trust_domain}")
    dns_names = tuple(names.get_values_for_type(x509.DNSName))
    return Identity(match["namespace"], match["service_account"], dns_names)

"""SPIFFE identities of workloads: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`. No pydantic in here."""

from dataclasses import dataclass
from typing import Self

SCHEME = "spiffe://"
_PARTS = 5


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """The identity of a workload, as Istio writes it."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.principal}"

    @property
    def principal(self) -> str:
        """The identity without the scheme, as AuthorizationPolicy's `principals` write it."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a URI SAN; ValueError says why it is not a workload's identity."""
        if not uri.startswith(SCHEME):
            raise ValueError(f"{uri!r} does not begin with {SCHEME}")
        parts = uri.removeprefix(SCHEME).split("/")
        if len(parts) != _PARTS or parts[1] != "ns" or parts[3] != "sa" or not all(parts):
            raise ValueError(f"{uri!r} is not of the form {SCHEME}TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")
        return cls(parts[0], parts[2], parts[4])

"""The recent denials, so that the id a client was given can be explained: bounded in number and in size, gone with the process."""

import os
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from lateen.policy.claims import Claims
from lateen.policy.compile import PolicySet
from lateen.policy.explain import trace_policies
from lateen.policy.request import CheckInput

SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})
_SHOWN_CLAIMS: Final = frozenset({"iss", "sub", "aud", "azp"})
_MAX_TEXT: Final = 512
REDACTED: Final = "[redacted]"


@dataclass(frozen=True, slots=True)
class Denial:
    """One request that was refused, with what is needed to say why and without its secrets."""

    id: str
    at: datetime
    target: str
    status: int
    reason: str
    policy: str
    rule: int | None
    position: str
    request: CheckInput
    policies: PolicySet | None


class Denials:
    """The last denials by id."""

    def __init__(self, capacity: int = 512) -> None:
        """Keep at most `capacity`."""
        self._capacity = capacity
        self._by_id: OrderedDict[str, Denial] = OrderedDict()

    def add(self, denial: Denial) -> None:
        """Remember a denial; the oldest makes room."""
        self._by_id[denial.id] = denial
        while len(self._by_id) > self._capacity:
            self._by_id.popitem(last=False)

    def get(self, denial_id: str) -> Denial | None:
        """The denial with this id, while it is remembered."""
        return self._by_id.get(denial_id)


def new_denial_id() -> str:
    """An id that cannot be guessed."""
    return os.urandom(8).hex()


def redacted(
    request: CheckInput, policies: PolicySet | None, secret_headers: Collection[str] = SECRET_HEADERS
) -> CheckInput:
    """The request with what its policies look at and nothing more: no secrets, every text cut to a bounded length."""
    wanted = policies.header_names if policies is not None else frozenset()
    headers = {
        name: REDACTED if name in secret_headers else _cut(request.headers[name])
        for name in wanted
        if name in request.headers
    }
    return request._replace(
        principal=_cut(request.principal),
        method=_cut(request.method),
        path=_cut(request.path),
        host=_cut(request.host),
        sni=_cut(request.sni),
        headers=headers,
        claims=_shown_claims(request.claims, policies),
        metadata={},
    )


def _shown_claims(claims: Claims | None, policies: PolicySet | None) -> Claims | None:
    if claims is None:
        return None
    wanted = _SHOWN_CLAIMS | (policies.claim_names if policies is not None else frozenset())
    return Claims({name: value for name, value in claims.payload.items() if name in wanted})


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def protocol_of(request: CheckInput) -> str:
    """`http`, `tcp`, or `unknown` for what could not be read."""
    if request.http:
        return "http"
    return "tcp" if request.source_ip or request.destination_port else "unknown"


def render_denial(denial: Denial) -> Mapping[str, object]:
    """A denial as JSON values, with every rule that was asked and the first conditions that failed."""
    request = denial.request
    traces = trace_policies(denial.policies, request) if denial.policies is not None else ()
    return {
        "id": denial.id,
        "at": denial.at.isoformat(),
        "target": denial.target,
        "status": denial.status,
        "reason": denial.reason,
        "policy": denial.policy,
        "rule": denial.rule,
        "position": denial.position,
        "request": {
            "protocol": protocol_of(request),
            "principal": request.principal,
            "source_ip": request.source_ip,
            "remote_ip": request.remote_ip,
            "destination_ip": request.destination_ip,
            "destination_port": request.destination_port,
            "method": request.method,
            "path": request.path,
            "host": request.host,
            "headers": dict(request.headers),
            "claims": dict(request.claims.payload) if request.claims is not None else None,
        },
        "rules": [asdict(trace) for trace in traces],
    }

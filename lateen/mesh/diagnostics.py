"""What is wrong with a configuration, as data: one `Diagnostic` for each finding, with its place in the author's file.

Codes are listed once, here, and never reused. Istio's own codes are kept where Istio's analyzer has one for the finding.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """Greater is worse."""
        return {"info": 0, "warning": 1, "error": 2}[self.value]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `invalid` marks what makes a resource invalid in itself, whatever stands beside it."""

    code: str
    severity: Severity
    message: str
    resource: str = ""
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""
    source_line: str = ""
    invalid: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, in the order of the fields."""
        return asdict(self) | {"severity": self.severity.value}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Diagnostic":
        """What `to_dict` gave; TypeError or ValueError on anything else."""
        return cls(**{**value, "severity": Severity(value["severity"])})


CODES: Mapping[str, str] = MappingProxyType(
    {
        # Istio's
        "IST0101": "a referenced resource does not exist",
        "IST0106": "a value is not allowed by the schema of its kind",
        # Istio's, about how resources fit together (analysis.py)
        "IST0109": "two VirtualServices of the mesh gateway have the same host",
        "IST0110": "two Sidecars select the same workload",
        "IST0111": "two Sidecars speak for a whole namespace",
        "IST0112": "a destination must say which port of a service it means",
        "IST0113": "a DestinationRule and a PeerAuthentication contradict each other about mutual TLS",
        "IST0118": "the name of a port does not say its protocol",
        "IST0127": "a selector selects no workload",
        "IST0130": "a rule of a VirtualService is never used",
        "IST0131": "a match of a VirtualService has no effect",
        "IST0132": "a host of a VirtualService is not served by its gateway",
        "IST0134": "a ServiceEntry for TCP has no addresses",
        "IST0145": "two Gateways serve the same host on the same port",
        "IST0149": "a route by a JWT claim at a gateway that verifies no tokens",
        "IST0173": "a subset selects no endpoint",
        # ours, about how resources fit together (analysis.py)
        "LTN0201": "a route does not attach to its gateway",
        "LTN0202": "a reference to another namespace is not permitted by a ReferenceGrant",
        "LTN0203": "a reference to a kind that cannot stand there",
        "LTN0204": "tokens are verified but never required",
        "LTN0205": "a rate limit counts by a claim that nobody verifies",
        "LTN0206": "a mutual TLS mode for a port that the workload does not serve",
        "LTN0207": "a listener of a Gateway is not served, or not completely",
        "LTN0208": "two servers of a gateway are bound at the same port",
        "LTN0209": "a policy targets a kind that has no effect here",
        "LTN0210": "a Service selects no workload",
        "LTN0211": "a port of a Service leads to no port of its workloads",
        "LTN0220": "an AuthorizationPolicy asks for HTTP attributes on a port that carries TCP",
        "LTN0221": "a negated identity allows callers that have none",
        "LTN0222": "an AuthorizationPolicy asks for an identity where callers may have none",
        "LTN0223": "another policy makes an AuthorizationPolicy pointless",
        "LTN0224": "nothing is allowed to reach a workload",
        # ours: translation (controlplane)
        "LTN0301": "part of a resource cannot become Envoy configuration and is left out",
        "LTN0302": "a policy cannot be enforced natively, so its workloads deny everything",
        "LTN0303": "a CUSTOM policy names a provider that cannot be asked, so what it matches is denied",
        "LTN0304": "a label names an enforcement engine that does not exist",
        "LTN0305": "a policy that no engine can enforce, so its workloads deny everything",
        "LTN0306": "what becomes of a resource is refused by Envoy, so its version before is used, or none",
        # ours: plugins (controlplane)
        "LTN0401": "the module of a plugin cannot be had, or is not the one that sha256 names",
        "LTN0402": "the module of a plugin cannot run in Envoy",
        "LTN0403": "the name or configuration of a plugin does not fit its module",
        "LTN0404": "a Lua script cannot run in Envoy",
        # ours: the text of a file
        "LTN0001": "the file is not well-formed YAML",
        "LTN0002": "a key stands twice in one mapping",
        "LTN0003": "the input is larger, deeper or more numerous than is accepted",
        "LTN0004": "the file cannot be read",
        "LTN0005": "a document is not a Kubernetes-style object",
        # ours: the shape of an object
        "LTN0101": "the kind is not known in its API group",
        "LTN0102": "the kind is known, but not in this apiVersion",
        "LTN0103": "the object is of a kind that the mesh does not use",
        "LTN0104": "a field is not known",
        "LTN0105": "a required field is missing",
        "LTN0106": "a value has the wrong type",
        "LTN0107": "a value is not one of those allowed",
        "LTN0108": "fields that exclude one another are set together, or none of them is set",
        "LTN0109": "a number, length or duration is out of range",
        "LTN0110": "a field is accepted but has no effect yet",
        "LTN0111": "the same resource is declared twice",
        "LTN0112": "a list names the same thing twice",
        "LTN0113": "a resource is owned by a file or by the runner",
        # ours: the local runner
        "LTN0901": "an image has no local command",
        "LTN0902": "an object is not run by lateen up",
        "LTN0903": "lateen.yaml is missing or invalid",
        "LTN0904": "there are too many replicas for one local mesh",
    }
)

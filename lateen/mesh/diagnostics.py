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

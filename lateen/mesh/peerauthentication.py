"""PeerAuthentication (security.istio.io): whether a workload demands mutual TLS."""

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import MAX_PORT, LabelSelector, Spec, rule_error


class MutualTlsMode(StrEnum):
    """Istio's PeerAuthentication.MutualTLS.Mode."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTLS(Spec):
    """The mode; absent or UNSET inherits."""

    mode: MutualTlsMode = MutualTlsMode.UNSET


def _port_key(value: object) -> object:
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise rule_error(
            "port_key", "must be a port number", hint='write the number of the workload\'s port, such as "8080"'
        )
    if not 0 < int(text[:6]) <= MAX_PORT or len(text) > len(str(MAX_PORT)):
        raise rule_error("port_range", "port must be between 1-65535")
    return int(text)


PortKey = Annotated[int, BeforeValidator(_port_key)]


class PeerAuthenticationSpec(Spec):
    """Mutual TLS for the workloads selected."""

    selector: LabelSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: Annotated[dict[PortKey, MutualTLS], Field(min_length=1)] = {}

    @model_validator(mode="after")
    def _ports_need_selector(self) -> "PeerAuthenticationSpec":
        if self.port_level_mtls and not (self.selector and self.selector.match_labels):
            raise rule_error(
                "requires", "portLevelMtls requires selector", "portLevelMtls", hint="add selector.matchLabels"
            )
        return self


class PeerAuthentication(Resource):
    """Whether a workload demands mutual TLS."""

    api_version: str = "security.istio.io/v1"
    kind: str = "PeerAuthentication"
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()

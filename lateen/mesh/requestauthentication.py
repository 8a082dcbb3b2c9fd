"""RequestAuthentication (security.istio.io): which JWTs a workload accepts."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import (
    Bool,
    Duration,
    LabelSelector,
    NonEmpty,
    PolicyTargetReference,
    Spec,
    TargetRefs,
    at_most_one,
    one_target,
)
from lateen.mesh.urls import scheme_of


def _http_url(value: str) -> str:
    if scheme_of(value) not in {"http", "https"}:
        raise PydanticCustomError("url", "url must have scheme http:// or https://")
    return value


HttpUrl = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_http_url)]


class JWTHeader(Spec):
    """A header that carries the token, after `prefix`."""

    name: NonEmpty
    prefix: str | None = None


class ClaimToHeader(Spec):
    """Copy a verified claim to a request header."""

    header: Annotated[str, Field(min_length=1, pattern=r"^[-_A-Za-z0-9]+$")]
    claim: NonEmpty


class JWTRequirement(StrEnum):
    """Whether a request must carry a token for the rule."""

    OPTIONAL = "OPTIONAL"
    REQUIRED = "REQUIRED"


class JWTRule(Spec):
    """How tokens of one issuer are verified."""

    issuer: NonEmpty | None = None
    audiences: tuple[NonEmpty, ...] = ()
    jwks_uri: HttpUrl | None = None
    jwks_uri_old: HttpUrl | None = Field(default=None, alias="jwks_uri")
    jwks: str | None = None
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[NonEmpty, ...] = ()
    from_cookies: tuple[NonEmpty, ...] = ()
    output_payload_to_header: str | None = None
    forward_original_token: Bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None
    space_delimited_claims: Annotated[tuple[NonEmpty, ...], Field(max_length=64)] = ()

    presence: JWTRequirement = JWTRequirement.OPTIONAL

    @model_validator(mode="after")
    def _one_key_source(self) -> "JWTRule":
        at_most_one(self, ("jwks_uri", "jwks_uri_old", "jwks"), "only one of jwks or jwksUri can be set")
        return self

    @property
    def keys_url(self) -> str | None:
        """Where the keys are fetched, however it was spelled."""
        return self.jwks_uri or self.jwks_uri_old


class RequestAuthenticationSpec(Spec):
    """JWT rules for the workloads selected."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    jwt_rules: Annotated[tuple[JWTRule, ...], Field(max_length=4096)] = ()

    @model_validator(mode="after")
    def _one_target(self) -> "RequestAuthenticationSpec":
        one_target(self)
        return self


class RequestAuthentication(Resource):
    """Which JWTs a workload accepts."""

    api_version: str = "security.istio.io/v1"
    kind: str = "RequestAuthentication"
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()

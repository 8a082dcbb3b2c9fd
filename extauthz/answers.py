"""Answers to Envoy: encoded CheckResponses.

A denial tells the client a status, Istio's body and an id. The policy, the rule and the reason go to dynamic metadata, and from there to
access logs, never to the client.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from google.protobuf import struct_pb2

from extauthz.authenticate import MISSING, NO_CHANGES, Authentication
from extauthz.decide import Decision, Verdict
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.envoyapi.envoy.type.v3 import http_status_pb2
from lateen.policy.rules import CompiledRule
from lateen.policy.tokens import TokenRule

DENIAL_HEADER: Final = "x-lateen-denial"
DENIED_BODY: Final = "RBAC: access denied"
OK: Final = http_status_pb2.OK
FORBIDDEN: Final = http_status_pb2.Forbidden
UNAUTHORIZED: Final = http_status_pb2.Unauthorized
_PERMISSION_DENIED: Final = 7
_UNAUTHENTICATED: Final = 16
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def allow(authentication: Authentication, decision: Decision) -> bytes:
    """Let the request pass, with the changes its token asks for, and what was verified in dynamic metadata."""
    if authentication is NO_CHANGES and decision.audit is None and not decision.dry_run:
        return _plain_allow(decision.rule)
    response = external_auth_pb2.CheckResponse()
    response.status.SetInParent()
    response.ok_response.SetInParent()
    if authentication.set_headers:
        response.ok_response.headers.extend(_headers(authentication.set_headers.items()))
    if authentication.remove_headers:
        response.ok_response.headers_to_remove.extend(sorted(authentication.remove_headers))
    if authentication.remove_parameters:
        response.ok_response.query_parameters_to_remove.extend(sorted(authentication.remove_parameters))
    fields = response.dynamic_metadata.fields
    _decided(fields["lateen"].struct_value, decision)
    if authentication.token is not None:
        fields["payload"].struct_value.CopyFrom(authentication.token.metadata)
    return response.SerializeToString()


@lru_cache(maxsize=4096)
def _plain_allow(rule: CompiledRule | None) -> bytes:
    """The answer for a rule that allowed a request as it is: always the same bytes."""
    response = external_auth_pb2.CheckResponse()
    response.status.SetInParent()
    response.ok_response.SetInParent()
    _decided(response.dynamic_metadata.fields["lateen"].struct_value, Decision(Verdict.ALLOW, rule))
    return response.SerializeToString()


def deny(denial_id: str, decision: Decision, authentication: Authentication | None = None) -> bytes:
    """403, Istio's words, the id."""
    response = external_auth_pb2.CheckResponse()
    response.status.code = _PERMISSION_DENIED
    response.denied_response.status.code = FORBIDDEN
    response.denied_response.body = DENIED_BODY
    response.denied_response.headers.extend(_headers([(DENIAL_HEADER, denial_id)]))
    fields = response.dynamic_metadata.fields
    _decided(fields["lateen"].struct_value, decision, denial_id)
    if authentication is not None and authentication.token is not None:
        fields["payload"].struct_value.CopyFrom(authentication.token.metadata)
    return response.SerializeToString()


def unauthenticated(denial_id: str, decision: Decision, rule: TokenRule, realm: str) -> bytes:
    """401 with the reason, and the challenge that RFC 6750 asks for."""
    response = external_auth_pb2.CheckResponse()
    response.status.code = _UNAUTHENTICATED
    response.denied_response.status.code = UNAUTHORIZED
    response.denied_response.body = decision.reason
    error = "" if decision.reason == MISSING else ', error="invalid_token"'
    challenge = f'Bearer realm="{realm}"{error}'
    response.denied_response.headers.extend(_headers([("www-authenticate", challenge), (DENIAL_HEADER, denial_id)]))
    struct = response.dynamic_metadata.fields["lateen"].struct_value
    _lateen(struct, decision, str(rule.origin), rule.index, denial_id)
    _position(struct, rule.origin.position_of(rule.index))
    return response.SerializeToString()


def realm_of(scheme: str, host: str, path: str) -> str:
    """The protected URL as a challenge names it, without its query and without what would end the quoted string."""
    text = f"{scheme or 'http'}://{host}{path}"[:512]
    return "".join(c for c in text if c.isascii() and c.isprintable() and c not in '"\\')


def _headers(pairs: Iterable[tuple[str, str]]) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=_OVERWRITE)
        for name, value in pairs
    ]


def _decided(struct: struct_pb2.Struct, decision: Decision, denial_id: str = "") -> None:
    if decision.rule is None:
        _lateen(struct, decision, "none", None, denial_id)
        return
    origin = decision.rule.origin
    _lateen(struct, decision, str(origin), decision.rule.index, denial_id)
    _position(struct, origin.position_of(decision.rule.index))


def _position(struct: struct_pb2.Struct, position: str) -> None:
    if position:
        struct.fields["position"].string_value = position


def _lateen(struct: struct_pb2.Struct, decision: Decision, policy: str, rule: int | None, denial_id: str) -> None:
    fields = struct.fields
    fields["verdict"].string_value = str(decision.verdict)
    fields["policy"].string_value = policy
    if rule is not None:
        fields["rule"].number_value = rule
    if denial_id:
        fields["denial_id"].string_value = denial_id
        fields["reason"].string_value = decision.reason
    if decision.audit is not None:
        fields["audit"].string_value = f"{decision.audit.origin} rule {decision.audit.index}"
    if decision.dry_run:
        fields["dry_run"].string_value = decision.dry_run


def effective_headers(
    headers: Mapping[str, str], authentication: Authentication, wanted: frozenset[str] | None = None
) -> Mapping[str, str]:
    """The headers as authorization sees them: after the token's changes, as behind Envoy's own jwt_authn filter.

    `wanted` are the only ones that anybody looks at: where none of them changes, nothing has to be done.
    """
    changes, gone = authentication.set_headers, authentication.remove_headers
    if not changes and not gone:
        return headers
    if wanted is not None and wanted.isdisjoint(gone) and wanted.isdisjoint(changes):
        return headers
    kept = {name: value for name, value in headers.items() if name not in authentication.remove_headers}
    kept.update(authentication.set_headers)
    return kept

"""Envoy's CheckRequest to what policies look at. Whatever is missing stays empty; what makes no sense is refused."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from lateen.envoyapi.envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from lateen.policy.request import NO_METADATA, CheckInput, path_of, remote_address

_MAX_METADATA_FIELDS: Final = 1000


class MalformedRequest(ValueError):  # noqa: N818 - named for what it is
    """The CheckRequest cannot be what a proxy of this mesh sends."""


class Check(NamedTuple):
    """A request to decide, before its tokens were looked at."""

    input: CheckInput
    query: str
    scheme: str


def parse_check(data: bytes, trusted_hops: int) -> Check:
    """Decode an encoded CheckRequest; MalformedRequest when it is none."""
    try:
        attributes = external_auth_pb2.CheckRequest.FromString(data).attributes
    except (DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"not a CheckRequest: {error}") from None
    source, destination = attributes.source, attributes.destination
    source_ip = source.address.socket_address.address
    local = destination.address.socket_address
    sni = attributes.tls_session.sni
    metadata = _metadata(attributes) if attributes.HasField("metadata_context") else NO_METADATA
    if not attributes.request.HasField("http"):
        return Check(
            CheckInput(
                http=False,
                principal=source.principal,
                source_ip=source_ip,
                remote_ip=source_ip,
                destination_ip=local.address,
                destination_port=local.port_value,
                sni=sni,
                metadata=metadata,
            ),
            "",
            "",
        )
    http = attributes.request.http
    headers = _headers(http)
    if not http.method or (not http.path and http.method != "CONNECT"):
        raise MalformedRequest("an HTTP request without method or path")
    forwarded_for = headers.get("x-forwarded-for", "")
    return Check(
        CheckInput(
            http=True,
            principal=source.principal,
            source_ip=source_ip,
            remote_ip=remote_address(forwarded_for, trusted_hops, source_ip) if forwarded_for else source_ip,
            destination_ip=local.address,
            destination_port=local.port_value,
            sni=sni,
            method=http.method,
            path=path_of(http.path),
            host=http.host.lower(),
            headers=headers,
            metadata=metadata,
        ),
        http.path.partition("#")[0].partition("?")[2],
        http.scheme,
    )


def _headers(http: attribute_context_pb2.AttributeContext.HttpRequest) -> Mapping[str, str]:
    """Lower-case names to values; the raw form is understood too, with values of one name joined by commas."""
    if not http.HasField("header_map"):
        return http.headers  # read in place: most requests are decided by a header or two
    headers = dict(http.headers)
    for header in http.header_map.headers:
        name = header.key.lower()
        value = header.value or header.raw_value.decode("utf-8", "replace")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _metadata(attributes: attribute_context_pb2.AttributeContext) -> Mapping[str, Mapping[str, object]]:
    found: dict[str, Mapping[str, object]] = {}
    for namespace, struct in attributes.metadata_context.filter_metadata.items():
        if len(struct.fields) > _MAX_METADATA_FIELDS:
            raise MalformedRequest(f"too much metadata of {namespace[:100]}")
        found[namespace] = json_format.MessageToDict(struct)
    return found

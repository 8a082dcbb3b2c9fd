"""Discovery messages and their bytes: requests parsed into the session's terms, responses joined from encoded resources.

A response is put together by hand, so a resource of 100 kB that a thousand proxies share is never parsed or serialized again.
The wire format is protobuf's: a tag (field number * 8 + 2), a length, the bytes.
"""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from lateen.controlplane.blobs import Blob
from lateen.controlplane.session import DeltaRequest, Push, SotwRequest
from lateen.controlplane.typestate import ProtocolViolation
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2

_LENGTH_DELIMITED = 2
# google.protobuf.Any
_ANY_TYPE_URL, _ANY_VALUE = 1, 2
# envoy.service.discovery.v3.Resource
_RESOURCE_VERSION, _RESOURCE_RESOURCE, _RESOURCE_NAME = 1, 2, 3
# DiscoveryResponse
_VERSION_INFO, _RESOURCES, _TYPE_URL, _NONCE = 1, 2, 4, 5
# DeltaDiscoveryResponse; the fields above have the same numbers in it
_REMOVED_RESOURCES = 6


def parse_delta(data: bytes) -> tuple[DeltaRequest, base_pb2.Node]:
    """Decode a DeltaDiscoveryRequest; ProtocolViolation when it is none."""
    message = discovery_pb2.DeltaDiscoveryRequest()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolViolation(f"not a DeltaDiscoveryRequest: {error}") from error
    request = DeltaRequest(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )
    return request, message.node


def parse_sotw(data: bytes) -> tuple[SotwRequest, base_pb2.Node]:
    """Decode a DiscoveryRequest; ProtocolViolation when it is none."""
    message = discovery_pb2.DiscoveryRequest()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolViolation(f"not a DiscoveryRequest: {error}") from error
    request = SotwRequest(
        type_url=message.type_url,
        names=tuple(message.resource_names),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )
    return request, message.node


def encode_delta(push: Push) -> bytes:
    """The bytes of the DeltaDiscoveryResponse."""
    parts: list[bytes] = []
    _text(parts, _VERSION_INFO, push.version)
    for blob in push.resources:
        _delta_resource(parts, blob)
    _text(parts, _TYPE_URL, push.type_url)
    _text(parts, _NONCE, push.nonce)
    for name in push.removed:
        _text(parts, _REMOVED_RESOURCES, name)
    return b"".join(parts)


def encode_sotw(push: Push) -> bytes:
    """The bytes of the DiscoveryResponse."""
    parts: list[bytes] = []
    _text(parts, _VERSION_INFO, push.version)
    for blob in push.resources:
        head = _any_head(blob)
        parts += (_tag(_RESOURCES, len(head) + len(blob.data)), head, blob.data)
    _text(parts, _TYPE_URL, push.type_url)
    _text(parts, _NONCE, push.nonce)
    return b"".join(parts)


def _delta_resource(parts: list[bytes], blob: Blob) -> None:
    before: list[bytes] = []
    _text(before, _RESOURCE_VERSION, blob.hash)
    _text(before, _RESOURCE_NAME, blob.name)
    head = _any_head(blob)
    before += (_tag(_RESOURCE_RESOURCE, len(head) + len(blob.data)), head)
    parts += (_tag(_RESOURCES, _size(before) + len(blob.data)), *before, blob.data)


def _any_head(blob: Blob) -> bytes:
    """Everything of the Any that stands before its value's bytes."""
    parts: list[bytes] = []
    _text(parts, _ANY_TYPE_URL, blob.type_url)
    if blob.data:
        parts.append(_tag(_ANY_VALUE, len(blob.data)))
    return b"".join(parts)


def _text(parts: list[bytes], number: int, text: str) -> None:
    if text:
        data = text.encode()
        parts += (_tag(number, len(data)), data)


def _tag(number: int, length: int) -> bytes:
    return bytes((number << 3 | _LENGTH_DELIMITED,)) + _varint(length)


def _varint(value: int) -> bytes:
    if value < 0x80:  # noqa: PLR2004 - seven bits fit in a byte
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _size(parts: Iterable[bytes]) -> int:
    return sum(map(len, parts))

"""Would Envoy refuse this message? The constraints that its API's descriptors carry, and the ones its code checks when it loads routes.

Asked of what users wrote (routes, clusters of a DestinationRule) before it is put beside others: a value that Envoy refuses must cost its
own rule, not the whole route configuration.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from lateen.controlplane.findings import TranslationError
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.validate import validate_pb2

Check = Callable[[Any], str]
_RULES: Any = validate_pb2.rules  # the stubs do not type extensions
_NUMBERS = frozenset(
    {
        "uint32",
        "uint64",
        "int32",
        "int64",
        "float",
        "double",
        "fixed32",
        "fixed64",
        "sint32",
        "sint64",
        "sfixed32",
        "sfixed64",
    }
)
_TOKEN = re.compile(r"%%|%(?P<command>[A-Z][A-Z0-9_]*)(?:\([^()]*\))?(?::[0-9]+)?%|%")
_UNPRINTABLE = re.compile(r"[\x00\n\r]")
_COMMANDS = re.compile(
    r"""
    ACCESS_LOG_TYPE | BYTES_RECEIVED | BYTES_SENT | CLUSTER_METADATA | COMMON_DURATION | CONNECTION_ID |
    CONNECTION_TERMINATION_DETAILS | DOWNSTREAM_DIRECT_LOCAL_ADDRESS | DOWNSTREAM_DIRECT_REMOTE_ADDRESS |
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT | DOWNSTREAM_LOCAL_ADDRESS | DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT |
    DOWNSTREAM_LOCAL_PORT | DOWNSTREAM_LOCAL_SUBJECT | DOWNSTREAM_LOCAL_URI_SAN | DOWNSTREAM_PEER_CERT | DOWNSTREAM_PEER_CERT_V_END |
    DOWNSTREAM_PEER_CERT_V_START | DOWNSTREAM_PEER_FINGERPRINT_1 | DOWNSTREAM_PEER_FINGERPRINT_256 | DOWNSTREAM_PEER_ISSUER |
    DOWNSTREAM_PEER_SERIAL | DOWNSTREAM_PEER_SUBJECT | DOWNSTREAM_PEER_URI_SAN | DOWNSTREAM_REMOTE_ADDRESS |
    DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT | DOWNSTREAM_REMOTE_PORT | DOWNSTREAM_TLS_CIPHER | DOWNSTREAM_TLS_SESSION_ID |
    DOWNSTREAM_TLS_VERSION | DURATION | DYNAMIC_METADATA | EMIT_TIME | ENVIRONMENT | FILTER_CHAIN_NAME | FILTER_STATE | GRPC_STATUS |
    GRPC_STATUS_NUMBER | HOSTNAME | METADATA | PATH | PROTOCOL | QUERY_PARAM | REQ | REQUESTED_SERVER_NAME | REQUEST_DURATION |
    REQUEST_HEADERS_BYTES | REQUEST_TX_DURATION | RESP | RESPONSE_CODE | RESPONSE_CODE_DETAILS | RESPONSE_DURATION | RESPONSE_FLAGS |
    RESPONSE_FLAGS_LONG | RESPONSE_TX_DURATION | ROUTE_NAME | START_TIME | STREAM_ID | TRACE_ID | TRAILER | UPSTREAM_CLUSTER |
    UPSTREAM_CLUSTER_RAW | UPSTREAM_HOST | UPSTREAM_LOCAL_ADDRESS | UPSTREAM_METADATA | UPSTREAM_PEER_SUBJECT | UPSTREAM_PEER_URI_SAN
    | UPSTREAM_PROTOCOL | UPSTREAM_REMOTE_ADDRESS | UPSTREAM_REMOTE_PORT | UPSTREAM_REQUEST_ATTEMPT_COUNT | UPSTREAM_TLS_CIPHER |
    UPSTREAM_TLS_VERSION | UPSTREAM_TRANSPORT_FAILURE_REASON | VIRTUAL_CLUSTER_NAME
    """,
    re.VERBOSE,
)
"""Envoy's substitution commands (docs, configuration/advanced/substitution_formatter)."""


def validate(message: Message) -> None:
    """Raise TranslationError with the first thing that Envoy would refuse."""
    problem = next(_violations(message), "")
    if problem:
        raise TranslationError(problem)


def format_error(text: str) -> str:
    """Why Envoy would refuse `text` as a format string; empty when it would not."""
    for found in _TOKEN.finditer(text):
        if found[0] == "%":
            return f"{text!r} has a % that begins no command: write %% for a literal one"
        command = found["command"]
        if command is not None and not _COMMANDS.fullmatch(command):
            return f"{text!r} has the unknown command %{command}%"
    return ""


def _violations(message: Message) -> Iterator[str]:
    if isinstance(message, base_pb2.HeaderValue):
        error = format_error(message.value)
        if error:
            yield f"header {message.key}: {error}"
    for field, presence, check in _rules(message.DESCRIPTOR):
        if presence and not message.HasField(field.name):
            yield f"{field.name} is required"
        elif check is not None:
            problem = check(getattr(message, field.name)) if _is_set(message, field) else ""
            if problem:
                yield f"{field.name} {problem}"
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else (value,):
            if not isinstance(item, any_pb2.Any):
                yield from _violations(item)


def _is_set(message: Message, field: FieldDescriptor) -> bool:
    """Constraints on an unset member of a one-of or an unset message do not apply."""
    return message.HasField(field.name) if field.has_presence else True


@functools.cache
def _rules(kind: Descriptor) -> tuple[tuple[FieldDescriptor, bool, Check | None], ...]:
    """The fields of a message that carry constraints: must it be there, and what must hold of its value."""
    result = []
    for field in kind.fields:
        rules: validate_pb2.FieldRules = field.GetOptions().Extensions[_RULES]
        alone = field.has_presence and field.containing_oneof is None
        required = alone and (rules.message.required or rules.duration.required or rules.any.required)
        check = _check(rules)
        if required or check is not None:
            result.append((field, bool(required), check))
    return tuple(result)


def _check(rules: validate_pb2.FieldRules) -> Check | None:
    kind = rules.WhichOneof("type")
    if kind == "string":
        return functools.partial(_string, rules.string)
    if kind == "repeated":
        return functools.partial(_repeated, rules.repeated, _check(rules.repeated.items))
    if kind == "duration":
        return functools.partial(_duration, rules.duration)
    if kind in _NUMBERS:
        return functools.partial(_number, getattr(rules, str(kind)))
    return None


def _string(rules: validate_pb2.StringRules, value: object) -> str:
    text = str(getattr(value, "value", value))
    if rules.HasField("min_len") and len(text) < rules.min_len:
        return "must not be empty" if rules.min_len == 1 else f"must have at least {rules.min_len} characters"
    for limit, size in ((rules.max_len, len(text)), (rules.max_bytes, len(text.encode()))):
        if limit and size > limit:
            return f"must have at most {limit} characters"
    if rules.well_known_regex and _UNPRINTABLE.search(text):
        return "must not contain line ends"
    return ""


def _number(rules: Any, value: Any) -> str:  # noqa: ANN401 one of twelve rule messages, one of twelve number types
    number = getattr(value, "value", value)
    for name, holds in (
        ("gt", number > rules.gt), ("gte", number >= rules.gte), ("lt", number < rules.lt), ("lte", number <= rules.lte),
    ):  # fmt: skip
        if rules.HasField(name) and not holds:
            return f"is {number}, which is out of range"
    return ""


def _duration(rules: validate_pb2.DurationRules, value: duration_pb2.Duration) -> str:
    length = value.ToTimedelta()
    if rules.HasField("gt") and not length > rules.gt.ToTimedelta():
        return f"is {length}, which is too short"
    if rules.HasField("gte") and not length >= rules.gte.ToTimedelta():
        return f"is {length}, which is too short"
    return ""


def _repeated(rules: validate_pb2.RepeatedRules, item: Check | None, value: Any) -> str:  # noqa: ANN401 any repeated field
    if rules.HasField("min_items") and len(value) < rules.min_items:
        return f"must have at least {rules.min_items} items"
    if rules.HasField("max_items") and len(value) > rules.max_items:
        return f"must have at most {rules.max_items} items"
    return next((problem for each in value if item is not None and (problem := item(each))), "")

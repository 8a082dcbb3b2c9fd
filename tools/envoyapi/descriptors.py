"""Finds the FileDescriptorProtos that protobuf's C++ runtime embeds in every binary that links generated messages."""

import re
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

# Field 1 of a FileDescriptorProto, `name`: the tag, one length byte (every name is shorter than 128 bytes), the path.
_NAME = re.compile(rb"\x0a([\x07-\x7f])([a-z][A-Za-z0-9_./-]*?\.proto)(?=[\x12\x1a\x22\x2a\x32\x3a\x42\x62])")
_HIGHEST_FIELD = 15
_VARINT = 0
_BYTES = 2


def scan_descriptors(binary: bytes) -> dict[str, FileDescriptorProto]:
    """All file descriptors embedded in `binary`, by file name."""
    found: dict[str, FileDescriptorProto] = {}
    for match in _NAME.finditer(binary):
        name = match[2].decode()
        if match[1][0] != len(name):
            continue
        file = _longest_descriptor(binary, match.start())
        if file is not None and (name not in found or file.ByteSize() > found[name].ByteSize()):
            found[name] = file
    return found


def closed_set(files: Iterable[FileDescriptorProto]) -> FileDescriptorSet:
    """The files in an order in which each follows its imports; a file with an import that is absent raises KeyError."""
    by_name = {file.name: file for file in files}
    ordered: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for dependency in by_name[name].dependency:
                add(dependency)
            ordered[name] = by_name[name]

    for name in sorted(by_name):
        add(name)
    return FileDescriptorSet(file=ordered.values())


def _longest_descriptor(binary: bytes, start: int) -> FileDescriptorProto | None:
    """The message that starts at `start`; nothing says where it ends, so the longest prefix that parses wins."""
    for end in reversed(list(_field_ends(binary, start))):
        try:
            return FileDescriptorProto.FromString(binary[start:end])
        except DecodeError:
            continue
    return None


def _field_ends(binary: bytes, start: int) -> Iterator[int]:
    """Where each field ends, while the bytes look like a FileDescriptorProto (protoc writes fields in order)."""
    position, previous = start, 0
    while position < len(binary):
        tag = binary[position]
        field, wire_type = tag >> 3, tag & 7
        if not previous <= field <= _HIGHEST_FIELD or field == 0 or (field == 1 and previous):
            return
        if wire_type == _BYTES:
            length, position = _varint(binary, position + 1)
            position += length
        elif wire_type == _VARINT:
            _, position = _varint(binary, position + 1)
        else:
            return
        if position > len(binary):
            return
        yield position
        previous = field


def _varint(binary: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(binary):
        byte = binary[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # no continuation bit
            break
        shift += 7
    return value, position

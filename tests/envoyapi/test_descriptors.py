"""Finding descriptors in a binary: they must come out whole, whatever lies around them."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tools.envoyapi.descriptors import closed_set, scan_descriptors


def _file(name: str, *dependencies: str) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package="p", dependency=dependencies, syntax="proto3")
    file.message_type.add(name="M").field.add(name="f", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    return file


A = _file("a/a.proto")
B = _file("b/b.proto", "a/a.proto")


@pytest.mark.parametrize(
    "binary",
    [
        pytest.param(A.SerializeToString() + B.SerializeToString(), id="adjacent"),
        pytest.param(
            b"\x0a\xff" + A.SerializeToString() + b"\0\0" + B.SerializeToString() + b"\x62\x7f", id="noise around"
        ),
        pytest.param(
            b"\x0a\x09a/a.proto\x12" + A.SerializeToString() + B.SerializeToString(), id="a name alone is no file"
        ),
        pytest.param(
            A.SerializeToString()[:-9] + A.SerializeToString() + B.SerializeToString(), id="the larger of two copies"
        ),
    ],
)
def test_each_descriptor_comes_out_whole(binary: bytes) -> None:
    assert scan_descriptors(binary) == {A.name: A, B.name: B}


def test_a_file_follows_its_imports() -> None:
    assert [file.name for file in closed_set([B, A]).file] == ["a/a.proto", "b/b.proto"]


def test_a_missing_import_is_named() -> None:
    with pytest.raises(KeyError, match=r"a/a\.proto"):
        closed_set([B])

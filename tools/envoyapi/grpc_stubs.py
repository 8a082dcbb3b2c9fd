"""Writes the `.pyi` beside each generated `_pb2_grpc.py`: protoc's gRPC plugin writes untyped Python only."""

from collections.abc import Mapping

from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto

# An override may be written for grpc or for grpc.aio: parameters are typed as both at once, results as either.
_PREAMBLE = """\
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, TypeVar, overload, type_check_only

import grpc
import grpc.aio
{imports}

_T = TypeVar("_T")

@type_check_only
class _Requests(AsyncIterator[_T], Iterator[_T]): ...

@type_check_only
class _Context(grpc.ServicerContext, grpc.aio.ServicerContext[Any, Any]): ...
"""
_SERVICE = """
class {name}Stub:
    @overload
    def __new__(cls, channel: grpc.Channel) -> {name}Stub: ...
    @overload
    def __new__(cls, channel: grpc.aio.Channel) -> {name}AsyncStub: ...
{calls}

@type_check_only
class {name}AsyncStub({name}Stub):
{async_calls}

class {name}Servicer:
{handlers}

def add_{name}Servicer_to_server(servicer: {name}Servicer, server: grpc.Server | grpc.aio.Server) -> None: ...
"""


def render_grpc_stub(file: FileDescriptorProto, module_of_type: Mapping[str, str]) -> str:
    """The stub for one file; `module_of_type` names the `_pb2` module of every message (`.package.Message`)."""
    types = sorted({t for s in file.service for m in s.method for t in (m.input_type, m.output_type)})
    imports = "\n".join(sorted({f"import {module_of_type[t]}" for t in types}))
    names = {t: f"{module_of_type[t]}.{_name_in_module(t, module_of_type)}" for t in types}
    return _PREAMBLE.format(imports=imports) + "".join(_render_service(service, names) for service in file.service)


def _name_in_module(full_name: str, module_of_type: Mapping[str, str]) -> str:
    outer, _, name = full_name.rpartition(".")
    return f"{_name_in_module(outer, module_of_type)}.{name}" if outer in module_of_type else name


def _render_service(service: ServiceDescriptorProto, names: Mapping[str, str]) -> str:
    return _SERVICE.format(
        name=service.name,
        calls="\n".join(_render_call(method, names, "grpc") for method in service.method),
        async_calls="\n".join(_render_call(method, names, "grpc.aio") for method in service.method),
        handlers="\n".join(_render_handler(method, names) for method in service.method),
    )


def _render_call(method: MethodDescriptorProto, names: Mapping[str, str], package: str) -> str:
    sides = ("Stream" if streams else "Unary" for streams in (method.client_streaming, method.server_streaming))
    types = f"{names[method.input_type]}, {names[method.output_type]}"
    return f"    {method.name}: {package}.{''.join(sides)}MultiCallable[{types}]"


def _render_handler(method: MethodDescriptorProto, names: Mapping[str, str]) -> str:
    request, response = names[method.input_type], names[method.output_type]
    parameter = f"request_iterator: _Requests[{request}]" if method.client_streaming else f"request: {request}"
    result = (
        f"Iterator[{response}] | AsyncIterator[{response}] | Awaitable[None]"
        if method.server_streaming
        else f"{response} | Awaitable[{response}]"
    )
    return f"    def {method.name}(self, {parameter}, context: _Context) -> {result}: ..."

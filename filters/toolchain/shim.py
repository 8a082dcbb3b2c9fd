"""The shim: the functions between Envoy's Proxy-Wasm ABI and CPython's C API, as a value the linker takes in.

`layout` says where in memory its data lies: the top of C's stack, which the linker takes away from C (it also makes CPython
notice deep recursion early enough, see `harden`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from filters.toolchain.assembler import Function, function_type


class Variable(NamedTuple):
    """A mutable global of the shim."""

    letter: str
    initial: int = 0


class HostFunction(NamedTuple):
    """A function the host provides."""

    module: str
    name: str
    type: bytes


class Layout(NamedTuple):
    """Where the shim's own data may lie, and which table slots are free for its functions."""

    base: int
    size: int
    first_slot: int


class Limits(NamedTuple):
    """What one callback may use before it is stopped; a filter's configuration can lower or raise the first."""

    cpu_ms: int = 100
    memory_mib: int = 128


@dataclass
class Shim:
    """Functions, globals and data to be linked in."""

    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    hosts: dict[str, HostFunction] = field(default_factory=dict)
    exports: list[str] = field(default_factory=list)
    """Functions the host calls."""
    stubs: dict[str, str] = field(default_factory=dict)
    """wasi:interface#function -> our function that takes its place."""
    overrides: dict[str, str] = field(default_factory=dict)
    """C function -> our function that takes its place."""
    slots: dict[int, str] = field(default_factory=dict)
    """Table slot -> function."""
    data: dict[int, bytes] = field(default_factory=dict)
    """Address -> content."""

    def add(self, function: Function, *, export: bool = False) -> None:
        if function.name in self.functions:
            raise ValueError(f"the shim has two functions called {function.name}")
        self.functions[function.name] = function
        if export:
            self.exports.append(function.name)

    def import_all(self, signatures: Mapping[str, str], module: str = "env") -> None:
        """Host functions that return an i32 status: name -> letters of the parameters."""
        for name, parameters in signatures.items():
            self.hosts[name] = HostFunction(module, name, function_type(parameters, "i"))


class Arena:
    """Hands out addresses of the shim's memory."""

    def __init__(self, shim: Shim, layout: Layout) -> None:
        self._shim = shim
        self._next = layout.base
        self._end = layout.base + layout.size
        self._texts: dict[bytes, int] = {}

    def reserve(self, size: int) -> int:
        """Zeroed memory, aligned to 16 bytes."""
        address = self._next
        self._next += (size + 15) & ~15
        if self._next > self._end:
            raise ValueError("the shim's memory is used up")
        return address

    def place(self, content: bytes) -> int:
        """Memory with this content."""
        address = self.reserve(len(content))
        self._shim.data[address] = content
        return address

    def text(self, value: str) -> int:
        """A C string; equal ones share their memory."""
        raw = value.encode() + b"\0"
        if raw not in self._texts:
            self._texts[raw] = self.place(raw)
        return self._texts[raw]

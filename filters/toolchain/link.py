"""Link a component and the shim into one Proxy-Wasm module."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from filters.toolchain.assembler import VALUE_TYPES
from filters.toolchain.binary import MalformedModuleError, name, read_unsigned, section, signed, unsigned, vector
from filters.toolchain.callbacks import CALLBACKS, add_callbacks
from filters.toolchain.code import (
    GLOBAL_SET,
    HOST,
    SHIM,
    BlockTypeUse,
    Body,
    FunctionUse,
    GlobalUse,
    Ref,
    SymbolUse,
    TypeUse,
    VariableUse,
)
from filters.toolchain.compiler import leave_out_compiler
from filters.toolchain.component import parse_component
from filters.toolchain.deadline import add_deadline, loop_check
from filters.toolchain.graph import I32, Graph
from filters.toolchain.harden import STACK_RESERVE, grow_frame
from filters.toolchain.heap import SIZES as HEAP_TYPES
from filters.toolchain.heap import clear_heap
from filters.toolchain.hostcalls import add_host_calls
from filters.toolchain.image import Image
from filters.toolchain.prune import RANGES, disable_modules, prunable_functions
from filters.toolchain.scan import scan_body
from filters.toolchain.shim import Arena, Layout, Limits, Shim
from filters.toolchain.wasi import add_wasi

MANIFEST_SECTION = "lateen.filter"
PAGE = 65536
UNREACHABLE = b"\0\0\x0b"


class Linked(NamedTuple):
    """The module and what is worth telling about it."""

    module: bytes
    manifest: Mapping[str, object]
    functions: int
    functions_dropped: int
    data_bytes: int


def link(
    raw: bytes, limits: Limits | None = None, extra: Mapping[str, object] | None = None, *, compiler: bool = True
) -> Linked:
    """Link the component `raw`; `extra` goes into the module's manifest. `compiler`: keep Python's compiler."""
    limits = limits or Limits()
    graph = Graph(parse_component(raw))
    image = Image(
        [
            (graph.constant(instance, segment.offset), segment.content)
            for instance, module in graph.modules.items()
            for segment in module.data
        ]
    )
    guest = image.manifest()
    manifest = {**guest, **(extra or {})}
    shim = build_shim(graph, limits, dropped_callbacks(guest), compiler=compiler)
    clear_heap(
        image.content,
        {title: graph.constant_of(graph.address(title)) for title in HEAP_TYPES if title in graph.addresses},
    )
    linking = _Linking(graph, shim, image)
    linking.resolve_names()
    linking.collect(_strings(guest.get("prunable")) & set(RANGES), compiler=compiler)
    bottom = graph.constant_of(linking.stack_pointer) - STACK_RESERVE
    image.content[bottom : bottom + STACK_RESERVE] = bytes(STACK_RESERVE)  # what C has left on its stack
    for address, content in shim.data.items():
        image.content[address : address + len(content)] = content
    module = linking.emit(limits, json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
    total = sum(len(found.bodies) for found in graph.modules.values())
    return Linked(module, manifest, len(linking.bodies), total - len(linking.bodies), len(image.content))


def dropped_callbacks(manifest: Mapping[str, object]) -> frozenset[str]:
    """Callbacks of the ABI that no filter of the module needs; Envoy does not call what is not exported."""
    wanted = _strings(manifest.get("callbacks"))
    return frozenset(callback.export for callback in CALLBACKS if callback.handler not in wanted)


def build_shim(graph: Graph, limits: Limits, dropped: frozenset[str], *, compiler: bool) -> Shim:
    """All our functions, laid out for this component."""
    top = graph.constant_of(graph.stack_pointer())
    layout = Layout(top - STACK_RESERVE, STACK_RESERVE, _table_size(graph))
    shim = Shim()
    arena = Arena(shim, layout)
    add_deadline(shim, arena, limits)
    add_wasi(shim)
    definitions, count = add_host_calls(shim, arena, layout.first_slot)
    add_callbacks(shim, arena, definitions, count, dropped)
    if not compiler:
        leave_out_compiler(shim, arena, graph)
    return shim


def _table_size(graph: Graph) -> int:
    declared = graph.modules[graph.main_table.instance].tables[graph.main_table.number]
    return max(read_unsigned(declared, 2)[0], max(graph.tables[graph.main_table]) + 1)


def _strings(value: object) -> frozenset[str]:
    return frozenset(item for item in value if isinstance(item, str)) if isinstance(value, list) else frozenset()


@dataclass
class _Linking:
    graph: Graph
    shim: Shim
    image: Image
    bodies: dict[Ref, Body] = field(default_factory=dict)
    hosts: dict[Ref, None] = field(default_factory=dict)
    written: set[Ref] = field(default_factory=set)
    slots: dict[int, Ref] = field(default_factory=dict)
    types: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.function_names = list(self.shim.functions)
        self.variable_names = list(self.shim.variables)
        self.host_names = list(self.shim.hosts)
        self.own = {title: Ref(SHIM, place) for place, title in enumerate(self.function_names)}
        self.own_variables = {title: Ref(SHIM, place) for place, title in enumerate(self.variable_names)}
        self.provided = {title: Ref(HOST, place) for place, title in enumerate(self.host_names)}
        self.stack_pointer = self.graph.stack_pointer()

    # Names of the shim

    def resolve_names(self) -> None:
        """Put our functions in the place of WASI's stubs and of the C functions we replace."""
        symbols = self.graph.symbols()
        for symbol, title in self.shim.overrides.items():
            if symbol not in symbols:
                raise MalformedModuleError(f"the component has no C function {symbol} to replace")
            self.graph.overrides[symbols[symbol]] = self.own[title]
        replaced = {}
        for label, ref in self.graph.stubs():
            if label in self.shim.stubs and ref.instance >= 0:
                replaced[ref] = self.own[self.shim.stubs[label]]
        self.graph.overrides |= replaced

    def _symbol(self, title: str) -> Ref:
        return self.own.get(title) or self.provided.get(title) or self.graph.symbol(title)

    def _variable(self, title: str) -> Ref:
        if title == "__stack_pointer":
            return self.stack_pointer
        return self.graph.address(title[1:]) if title.startswith("&") else self.own_variables[title]

    def _resolved(self, body: Body) -> Body:
        return [
            FunctionUse(self._symbol(token.name))
            if isinstance(token, SymbolUse)
            else GlobalUse(self._variable(token.name), token.opcode)
            if isinstance(token, VariableUse)
            else token
            for token in body
        ]

    # Reachability

    def collect(self, unused_modules: frozenset[str], *, compiler: bool) -> None:
        """Scan everything that can be reached from the exports and the function table."""
        pruned = prunable_functions(self.graph, unused_modules, compiler=compiler)
        table = self.graph.tables[self.graph.main_table]
        self.slots = {slot: self.graph.function(*where) for slot, where in table.items()}
        titles = {self.graph.name_of(self.graph.slot_definition(slot)): slot for slot in table}
        disable_modules(
            self.image,
            {module: titles[f"PyInit_{module}"] for module in unused_modules if f"PyInit_{module}" in titles},
        )
        self.slots |= {slot: self.own[title] for slot, title in self.shim.slots.items()}
        todo = [self.own[title] for title in self.shim.exports]
        needed = self.graph.needed_slots() | set(self.shim.slots)
        todo += [ref for slot, ref in self.slots.items() if slot in needed and ref not in pruned]
        check = self._resolved(list(loop_check()))
        while todo:
            ref = todo.pop()
            if ref.instance == HOST:
                self.hosts[ref] = None
            elif ref not in self.bodies:
                body = self.bodies[ref] = self._body(ref, check)
                for token in body:
                    if isinstance(token, FunctionUse):
                        todo.append(token.ref)
                    elif isinstance(token, GlobalUse) and token.opcode == GLOBAL_SET:
                        self.written.add(token.ref)
        self._stub_unreached_slots()

    def _body(self, ref: Ref, check: Body) -> Body:
        if ref.instance == SHIM:
            return self._resolved(self.shim.functions[self.function_names[ref.number]].body())
        module = self.graph.modules[ref.instance]
        start, end = module.bodies[ref.number - module.imported_functions]
        label = f"function {module.names.get(ref.number, ref.number)}"
        body = scan_body(module.raw, start, end, self.graph.scope(ref.instance, label), check)
        grow_frame(body, self.stack_pointer)
        return body

    def _stub_unreached_slots(self) -> None:
        """Functions of pruned modules that only the table knows: one trap for each signature."""
        traps: dict[bytes, Ref] = {}
        for slot, ref in self.slots.items():
            if ref.instance != HOST and ref not in self.bodies:
                trap = traps.setdefault(self._type(ref), ref)
                self.bodies.setdefault(trap, [UNREACHABLE])
                self.slots[slot] = trap

    def _type(self, ref: Ref) -> bytes:
        if ref.instance == SHIM:
            return self.shim.functions[self.function_names[ref.number]].type
        if ref.instance == HOST:
            return self.shim.hosts[self.host_names[ref.number]].type
        return self.graph.type_of(ref)

    # Output

    def _type_index(self, type_: bytes) -> int:
        return self.types.setdefault(type_, len(self.types))

    def emit(self, limits: Limits, manifest: bytes) -> bytes:
        """The bytes of the module; order is fixed, so equal input gives equal output."""
        hosts = sorted(self.hosts)
        defined = sorted(self.bodies)
        indices = {ref: place for place, ref in enumerate((*hosts, *defined))}
        variables = {ref: place for place, ref in enumerate(sorted(self.written))}
        code = [self._code(self.bodies[ref], indices, variables) for ref in defined]
        imports = []
        for ref in hosts:
            found = self.shim.hosts[self.host_names[ref.number]]
            imports.append(name(found.module) + name(found.name) + b"\0" + unsigned(self._type_index(found.type)))
        declared = [unsigned(self._type_index(self._type(ref))) for ref in defined]
        exports = [name(title) + b"\0" + unsigned(indices[self.own[title]]) for title in self.shim.exports]
        exports.append(name("memory") + b"\x02\0")
        slots = unsigned(max(self.slots) + 1)
        data = [
            b"\0\x41" + signed(offset) + b"\x0b" + unsigned(len(content)) + content
            for offset, content in self.image.segments()
        ]
        names = [unsigned(indices[ref]) + name(title) for ref in defined if (title := self._name(ref))]
        return b"".join(
            (
                b"\0asm\1\0\0\0",
                section(1, vector(list(self.types))),
                section(2, vector(imports)),
                section(3, vector(declared)),
                section(4, b"\1\x70\1" + slots + slots),
                section(5, b"\1" + self._memory(limits)),
                section(6, vector([self._global(ref) for ref in variables])),
                section(7, vector(exports)),
                section(9, vector(list(_element_segments(self.slots, indices)))),
                section(10, vector(code)),
                section(11, vector(data)),
                section(0, name("name") + section(1, vector(names))),
                section(0, name(MANIFEST_SECTION) + manifest),
            )
        )

    def _name(self, ref: Ref) -> str:
        return self.function_names[ref.number] if ref.instance == SHIM else self.graph.name_of(ref)

    def _memory(self, limits: Limits) -> bytes:
        memory = self.graph.modules[self.graph.memory.instance].memories[self.graph.memory.number]
        initial = read_unsigned(memory, 1)[0]
        most = limits.memory_mib * 1024 * 1024 // PAGE
        if most < initial:
            needed = -(-initial * PAGE // (1024 * 1024))
            raise MalformedModuleError(
                f"the module needs {needed} MiB of memory at the start, the limit is {limits.memory_mib}"
            )
        return b"\1" + unsigned(initial) + unsigned(most)

    def _global(self, ref: Ref) -> bytes:
        if ref.instance == SHIM:
            letter, value = self.shim.variables[self.variable_names[ref.number]]
            kind = VALUE_TYPES[letter]
        else:
            kind = self.graph.global_definition(ref).value_type
            value = self.graph.constant_of(ref) - (STACK_RESERVE if ref == self.stack_pointer else 0)
        return bytes([kind, 1, 0x41 if kind == I32 else 0x42]) + signed(value) + b"\x0b"

    def _code(self, body: Body, indices: Mapping[Ref, int], variables: Mapping[Ref, int]) -> bytes:
        out = bytearray()
        for token in body:
            if isinstance(token, bytes):
                out += token
            elif isinstance(token, FunctionUse):
                out += unsigned(indices[token.ref])
            elif isinstance(token, GlobalUse):
                place = variables.get(token.ref)
                out += self._constant(token.ref) if place is None else bytes([token.opcode]) + unsigned(place)
            elif isinstance(token, TypeUse):
                out += unsigned(self._type_index(token.type))
            elif isinstance(token, BlockTypeUse):
                out += signed(self._type_index(token.type))
        return unsigned(len(out)) + out

    def _constant(self, ref: Ref) -> bytes:
        """A global nobody writes any more: its value."""
        if ref.instance == SHIM:
            letter, value = self.shim.variables[self.variable_names[ref.number]]
            return (b"\x41" if letter == "i" else b"\x42") + signed(value)
        kind = self.graph.global_definition(ref).value_type
        return (b"\x41" if kind == I32 else b"\x42") + signed(self.graph.constant_of(ref))


def _element_segments(slots: Mapping[int, Ref], indices: Mapping[Ref, int]) -> Iterable[bytes]:
    """One segment for each run of neighbouring slots."""
    base, run = -1, list[bytes]()
    for slot in sorted(slots):
        if slot != base + len(run):
            if run:
                yield _elements(base, run)
            base, run = slot, []
        run.append(unsigned(indices[slots[slot]]))
    yield _elements(base, run)


def _elements(base: int, run: Sequence[bytes]) -> bytes:
    return b"\0\x41" + signed(base) + b"\x0b" + vector(run)

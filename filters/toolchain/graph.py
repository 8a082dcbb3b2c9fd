"""The instantiation graph of a component, resolved: every import of every instance leads to one definition.

componentize-py links CPython dynamically: imports go through instances, through a table of addresses (GOT) that its snapshot
has filled in, and through trampolines that call by table slot. After the snapshot all of that is constant, so it is followed here.
"""

import re
from collections.abc import Iterator

from filters.toolchain.binary import MalformedModuleError, read_signed, read_unsigned
from filters.toolchain.code import HOST, SHIM, Ref
from filters.toolchain.component import Alias, Bundle, Component, Instantiation, Lowered
from filters.toolchain.core_module import CoreModule, GlobalDefinition, Kind
from filters.toolchain.scan import LEB, Scope

_TRAMPOLINE = re.compile(rb"\x00(?:\x20[\x00-\x7f])*\x41(" + LEB + rb")\x11" + LEB + rb"\x00\x0b", re.DOTALL)
_LONGEST_TRAMPOLINE = 64
I32 = 0x7F


class Graph:
    """Answers what an index of an instance means."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.modules: dict[int, CoreModule] = {
            number: component.modules[instance.module]
            for number, instance in enumerate(component.instances)
            if isinstance(instance, Instantiation)
        }
        self.overrides: dict[Ref, Ref] = {}
        self._items: dict[tuple[Kind, int, int], Ref] = {}
        self._functions: dict[tuple[int, int], Ref] = {}
        self.tables = self._tables()
        self.main_table = max(self.tables, key=lambda table: len(self.tables[table]))
        self.memory = self._memory()
        self.exported = self._exported_functions()
        self.addresses = self._addresses()

    # What an index means

    def item(self, kind: Kind, instance: int, index: int) -> Ref:
        """The definition behind an index, trampolines not followed."""
        key = (kind, instance, index)
        found = self._items.get(key)
        if found is None:
            imports = self.modules[instance].imports[kind]
            if index < len(imports):
                owner = self.component.instances[instance]
                if not isinstance(owner, Instantiation):
                    raise MalformedModuleError("an instance without a module imports something")
                found = self._export(owner.arguments[imports[index].module], kind, imports[index].name)
            else:
                found = Ref(instance, index)
            self._items[key] = found
        return found

    def function(self, instance: int, index: int) -> Ref:
        """The function behind an index, through overrides and trampolines."""
        key = (instance, index)
        found = self._functions.get(key)
        if found is None:
            found = self._functions[key] = self.follow(self.item(Kind.FUNCTION, instance, index))
        return found

    def slot_definition(self, slot: int) -> Ref:
        """The function in a slot of the main table, trampolines not followed."""
        instance, index = self.tables[self.main_table][slot]
        return self.item(Kind.FUNCTION, instance, index)

    def scope(self, instance: int, label: str) -> Scope:
        """How to read the bodies of one instance."""
        return Scope(
            lambda index: self.function(instance, index),
            lambda index: self.item(Kind.GLOBAL, instance, index),
            self.modules[instance].types,
            label,
        )

    def follow(self, ref: Ref) -> Ref:
        """Where a call of `ref` ends up: `local.get*; i32.const slot; call_indirect; end` is a call of that slot."""
        while ref.instance >= 0:
            override = self.overrides.get(ref)
            if override is not None:
                return override
            module = self.modules[ref.instance]
            start, end = module.bodies[ref.number - module.imported_functions]
            match = _TRAMPOLINE.fullmatch(module.raw, start, end) if end - start < _LONGEST_TRAMPOLINE else None
            if match is None:
                break
            slot = read_signed(match[1], 0)[0]
            target = self.tables.get(self.item(Kind.TABLE, ref.instance, 0), {}).get(slot)
            if target is None:
                break
            target = self.item(Kind.FUNCTION, *target)
            if self.type_of(target) != self.type_of(ref):
                break
            ref = target
        return ref

    def type_of(self, ref: Ref) -> bytes:
        """The type of a guest function."""
        return self.modules[ref.instance].function_type(ref.number)

    def name_of(self, ref: Ref) -> str:
        """The symbol name of a guest function, if the module has kept it."""
        return self.modules[ref.instance].names.get(ref.number, "") if ref.instance not in (SHIM, HOST) else ""

    # Globals and constants

    def global_definition(self, ref: Ref) -> GlobalDefinition:
        module = self.modules[ref.instance]
        return module.globals[ref.number - len(module.imports[Kind.GLOBAL])]

    def constant_of(self, ref: Ref) -> int:
        """The initial value of a guest global."""
        return self.constant(ref.instance, self.global_definition(ref).initialiser)

    def constant(self, instance: int, expression: bytes) -> int:
        """Evaluate a constant expression."""
        stack: list[int] = []
        at = 0
        while expression[at] != 0x0B:
            opcode = expression[at]
            at += 1
            if opcode in (0x41, 0x42):
                value, at = read_signed(expression, at)
                stack.append(value)
            elif opcode == 0x23:
                index, at = read_unsigned(expression, at)
                stack.append(self.constant_of(self.item(Kind.GLOBAL, instance, index)))
            elif opcode in (0x6A, 0x6B):
                right = stack.pop()
                stack.append(stack.pop() + (right if opcode == 0x6A else -right))
            else:
                raise MalformedModuleError(f"constant expression {expression.hex()} is not supported")
        return stack.pop()

    def stack_pointer(self) -> Ref:
        """The global that points to the top of C's shadow stack."""
        return self._named_global("__stack_pointer")

    def address(self, symbol: str) -> Ref:
        """The global that holds the address of a C variable; the snapshot has filled it in for good."""
        found = self.addresses.get(symbol)
        if found is None:
            raise MalformedModuleError(f"the component has no C variable {symbol}: not a supported componentize-py")
        return found

    def symbol(self, name: str) -> Ref:
        """A C function by name."""
        found = self.exported.get(name)
        if found is None:
            raise MalformedModuleError(f"the component has no C function {name}: not a supported componentize-py")
        return found

    def stubs(self) -> Iterator[tuple[str, Ref]]:
        """Functions of WASI as the component's instances import them: ("wasi:interface#function", definition)."""
        for instance in self.component.instances:
            if isinstance(instance, Bundle):
                continue
            for interface, number in instance.arguments.items():
                bundle = self.component.instances[number]
                if not interface.startswith("wasi:") or not isinstance(bundle, Bundle):
                    continue
                for name, (kind, index) in bundle.exports.items():
                    if kind == Kind.FUNCTION:
                        yield f"{interface.split('@')[0]}#{name}", self.follow(self._core(Kind.FUNCTION, index))

    # Construction

    def _export(self, instance: int, kind: Kind, name: str) -> Ref:
        owner = self.component.instances[instance]
        if isinstance(owner, Bundle):
            return self._core(kind, owner.exports[name][1])
        found, index = self.modules[instance].exports[name]
        if found is not kind:
            raise MalformedModuleError(f"export {name} is a {found.name}, not a {kind.name}")
        return self.item(kind, instance, index)

    def _core(self, kind: Kind, index: int) -> Ref:
        match self.component.core[kind][index]:
            case Alias(instance, name):
                return self._export(instance, kind, name)
            case Lowered(label):
                raise MalformedModuleError(f"the component imports {label}: filters have no imports of their own")

    def _tables(self) -> dict[Ref, dict[int, tuple[int, int]]]:
        """Table -> slot -> (instance, function index), when all active segments have been written."""
        tables: dict[Ref, dict[int, tuple[int, int]]] = {}
        for instance, module in self.modules.items():
            for segment in module.elements:
                table = tables.setdefault(self.item(Kind.TABLE, instance, 0), {})
                base = self.constant(instance, segment.offset)
                table.update({base + place: (instance, index) for place, index in enumerate(segment.functions)})
        if not tables:
            raise MalformedModuleError("the component has no function table: not made by componentize-py")
        return tables

    def _memory(self) -> Ref:
        owners = [Ref(instance, 0) for instance, module in self.modules.items() if module.memories]
        if len(owners) != 1:
            raise MalformedModuleError(f"expected one memory, found {len(owners)}")
        return owners[0]

    def _exported_functions(self) -> dict[str, Ref]:
        """C functions by symbol: the instance that defines one wins over those that only pass it on."""
        found: dict[str, Ref] = {}
        for instance, module in self.modules.items():
            for name, (kind, index) in module.exports.items():
                if kind is not Kind.FUNCTION or name in found:
                    continue
                ref = self.item(Kind.FUNCTION, instance, index)
                if self.follow(ref) == ref:
                    found[name] = ref
        return found

    def _addresses(self) -> dict[str, Ref]:
        return {
            imported.name: self.item(Kind.GLOBAL, instance, index)
            for instance, module in self.modules.items()
            for index, imported in enumerate(module.imports[Kind.GLOBAL])
            if imported.module == "GOT.mem"
        }

    def needed_slots(self) -> frozenset[int]:
        """Slots of the main table whose number the guest holds: its own functions' addresses, and those it imports (GOT.func).

        The others only serve trampolines, which are resolved here.
        """
        needed: set[int] = set()
        for instance, module in self.modules.items():
            if module.imports[Kind.GLOBAL]:
                own = [imported.name for imported in module.imports[Kind.GLOBAL] if imported.module == "env"]
                if "__table_base" in own and self.item(Kind.TABLE, instance, 0) == self.main_table:
                    for segment in module.elements:
                        base = self.constant(instance, segment.offset)
                        needed.update(range(base, base + len(segment.functions)))
            for index, imported in enumerate(module.imports[Kind.GLOBAL]):
                if imported.module == "GOT.func":
                    needed.add(self.constant_of(self.item(Kind.GLOBAL, instance, index)))
        return frozenset(needed)

    def _named_global(self, name: str) -> Ref:
        for instance, module in self.modules.items():
            kind, index = module.exports.get(name, (None, 0))
            if kind is Kind.GLOBAL:
                return self.item(Kind.GLOBAL, instance, index)
        raise MalformedModuleError(f"the component has no global {name}")

    def symbols(self) -> dict[str, Ref]:
        """Every named guest function."""
        return {
            name: Ref(instance, index)
            for instance, module in self.modules.items()
            for index, name in module.names.items()
            if index >= module.imported_functions
        }

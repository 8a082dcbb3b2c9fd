"""Leave out Python's own compiler: a quarter of CPython's code, and nothing a running filter needs.

The functions that lead into parser and compiler raise RuntimeError instead, so `eval` and `exec` fail with a reason; what could only
be reached through them is then dropped by the linker. A filter whose functions compile code keeps the compiler (see `imports`).
"""

from collections.abc import Mapping

from filters.toolchain.assembler import Function, call, const, letters_of_type, load, variable
from filters.toolchain.graph import Graph
from filters.toolchain.shim import Arena, Shim

REASON = (
    "this module was built without Python's compiler: call eval, exec or compile by name in a function of the filter"
)
# C function -> what it returns when it has failed.
ENTRIES: Mapping[str, int] = {
    "_PyPegen_run_parser_from_string": 0,
    "_PyPegen_run_parser_from_file_pointer": 0,
    "_PyAST_Compile": 0,
    "_PyAST_Validate": 0,
    "_PyAST_Preprocess": 0,
    "PyAST_mod2obj": 0,
    "PyAST_obj2mod": 0,
    "init_types": -1,
    "_PySymtable_Build": 0,
    "_PyTokenizer_FromReadline": 0,
    "_PyTokenizer_FromUTF8": 0,
    "_PyTokenizer_FromString": 0,
    "_PyTokenizer_FromFile": 0,
    "_PyTokenizer_Get": 0,
}
QUIET = ("_PyAST_Fini", "Py_Exit")
"""Clearing up, which never happens: a VM is thrown away, and SystemExit does not leave the SDK."""
RANGES = (
    ("_PyPegen_interactive_exit", "_PyParser_ASTFromString"),
    ("ast2obj_stmt", "PyAst_CheckMode"),
    ("ast2obj_arguments", "PyInit__tokenize"),
)
"""First symbol, symbol after the last: grammar rules and conversions, which are passed as pointers."""


def leave_out_compiler(shim: Shim, arena: Arena, graph: Graph) -> None:
    """Put functions that raise in the place of the compiler's entries. A symbol that is missing is passed over."""
    symbols = graph.symbols()
    for symbol, failed in ENTRIES.items():
        if symbol in symbols:
            parameters, results = letters_of_type(graph.type_of(symbols[symbol]))
            refuse = Function(f"refuse:{symbol}", parameters, results)
            refuse.emit(call("PyErr_SetString", load(variable("&PyExc_RuntimeError")), const(arena.text(REASON))))
            if results:
                refuse.emit(const(failed))
            shim.add(refuse)
            shim.overrides[symbol] = refuse.name
    for symbol in QUIET:
        if symbol in symbols:
            parameters, results = letters_of_type(graph.type_of(symbols[symbol]))
            quiet = Function(f"quiet:{symbol}", parameters, results)
            shim.add(quiet)
            shim.overrides[symbol] = quiet.name

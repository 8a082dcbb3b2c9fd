"""From Python source to one Proxy-Wasm module: a pure-Python linker over what componentize-py makes of CPython and the filter.

`binary`, `core_module`, `component` read the formats; `scan` finds what a function body refers to; `graph` resolves it;
`assembler`, `shim*` write the functions between Envoy and CPython; `harden`, `prune` and `emit` write the module; `link` runs
them all. `imports`, `build` and `inspection` face the author. Nothing here knows of meshes; `lateen.cli` alone imports it.
"""

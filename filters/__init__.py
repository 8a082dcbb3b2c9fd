"""Python inside Envoy: what an author imports (`sdk`), the linker to Proxy-Wasm (`toolchain`), ready-made filters (`library`).

`sdk` and `library` are compiled to Wasm, so they import nothing of ours. Nobody but `lateen.cli` imports this package.
"""

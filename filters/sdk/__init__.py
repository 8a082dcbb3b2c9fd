"""What a filter's author writes against, imported as `lateen_filter`. Compiled to Wasm with the filter: imports nothing of ours.

`host` is the boundary to Envoy (the linker puts C functions in its place, the test kit a fake); `dispatch` is what Envoy's
callbacks arrive at; everything else is the author's API. Standard library only, and little of it: each module costs memory.
"""

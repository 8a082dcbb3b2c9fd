"""The `lateen` command: parses arguments, calls one function of a lower layer, renders its value.

Knows the exit codes and the output formats; knows nothing of Envoy or of how anything is decided. Nothing imports it.
Modules import what they need inside the command's function, so that `lateen --help` stays below 200 ms.
"""

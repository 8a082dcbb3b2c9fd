"""The smallest Proxy-Wasm module: it does nothing, but Envoy then knows the stat namespace `wasmcustom`.

Envoy's Prometheus endpoint prints names of a registered custom namespace without its `envoy_` prefix, and the Wasm runtime registers
this one when its first VM starts. With it `wasmcustom.istio_requests_total` is printed as `istio_requests_total`, as Istio's
dashboards expect.
"""

from collections.abc import Collection

_I32, _FUNC = 0x7F, 0x60
_PAGES = 1
_SCRATCH = 1024


def noop_module() -> bytes:
    """The module, assembled from its sections (WebAssembly core specification, binary format)."""
    signatures = {
        "allocate": _signature(1, 1),
        "void": _signature(0, 0),
        "create": _signature(2, 0),
        "decide": _signature(2, 1),
    }
    order = list(signatures)
    # Nothing is ever kept, so one scratch address serves every allocation.
    functions = {
        "malloc": ("allocate", b"\x41" + _signed(_SCRATCH)),
        "proxy_abi_version_0_2_1": ("void", b""),
        "proxy_on_context_create": ("create", b""),
        "proxy_on_vm_start": ("decide", b"\x41\x01"),
        "proxy_on_configure": ("decide", b"\x41\x01"),
    }
    exports = [_name("memory") + b"\x02\x00"]
    exports += [_name(name) + b"\x00" + _unsigned(index) for index, name in enumerate(functions)]
    bodies = [b"\x00" + code + b"\x0b" for _, code in functions.values()]
    return b"\x00asm\x01\x00\x00\x00" + b"".join(
        (
            _section(1, signatures.values()),
            _section(3, [_unsigned(order.index(signature)) for signature, _ in functions.values()]),
            _section(5, [b"\x00" + _unsigned(_PAGES)]),
            _section(7, exports),
            _section(10, [_unsigned(len(body)) + body for body in bodies]),
        )
    )


def _section(number: int, items: Collection[bytes]) -> bytes:
    content = _unsigned(len(items)) + b"".join(items)
    return bytes([number]) + _unsigned(len(content)) + content


def _signature(parameters: int, results: int) -> bytes:
    return bytes([_FUNC, parameters, *[_I32] * parameters, results, *[_I32] * results])


def _name(text: str) -> bytes:
    return _unsigned(len(text)) + text.encode()


def _unsigned(value: int) -> bytes:
    """LEB128."""
    encoded = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - seven bits to a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _signed(value: int) -> bytes:
    """Signed LEB128 of a value that is not negative: the last byte must not have its sign bit set."""
    encoded = bytearray()
    while value >= 0x40:  # noqa: PLR2004 - six bits and the sign
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])

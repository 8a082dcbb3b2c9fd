"""What Envoy knows of a request beyond its headers (Envoy's attributes: architecture overview, "Attributes")."""

from filters.sdk import host

NUMBER_BYTES = 8


class Properties:
    """Attributes by path: `request.properties.text("source", "address")`. None if Envoy has no such value."""

    __slots__ = ()

    def raw(self, *path: str) -> bytes | None:
        """The value as Envoy serialises it."""
        for part in path:
            if not isinstance(part, str):
                raise TypeError(f"the path of a property is made of str, not {type(part).__name__}")
        if not all(path) or not path:
            raise ValueError(f'a property has a path, for example "source", "address"; not {path!r}')
        return host.get_property("\0".join(path))

    def text(self, *path: str) -> str | None:
        """A string."""
        value = self.raw(*path)
        return None if value is None else value.decode("utf-8", "replace")

    def number(self, *path: str) -> int | None:
        """An integer, or a duration or time in nanoseconds."""
        value = self.raw(*path)
        return None if value is None or len(value) != NUMBER_BYTES else int.from_bytes(value, "little", signed=True)

    def flag(self, *path: str) -> bool | None:
        """A boolean."""
        value = self.raw(*path)
        return None if not value else value[0] != 0

    def set(self, name: str, value: str | bytes) -> None:
        """Keep `value` in the request's filter state as `wasm.NAME`, for other filters and the access log."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a property must be str, not {type(name).__name__}")
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"a property must be str or bytes, not {type(value).__name__}")
        host.set_property(name, value)

    @property
    def peer_identity(self) -> str | None:
        """The caller's SPIFFE identity, from its certificate."""
        return self.text("connection", "uri_san_peer_certificate") or None

    @property
    def source_address(self) -> str | None:
        """Address and port of the downstream connection."""
        return self.text("source", "address")

    @property
    def route_name(self) -> str | None:
        return self.text("xds", "route_name")

    @property
    def cluster_name(self) -> str | None:
        return self.text("xds", "cluster_name")

"""What is configured, and by whom: files, the API and the runner each have a layer, and files stay the truth.

The one exception is the overlay: the runner's copies of file resources with what only it can know (the address of a Service).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lateen.mesh.loader import Located
from lateen.mesh.metadata import ResourceKey


class Origin(StrEnum):
    """Who gave a resource. Earlier ones win."""

    OVERLAY = "overlay"
    FILE = "file"
    API = "api"
    RUNNER = "runner"


@dataclass(frozen=True, slots=True)
class Item:
    """A resource as it is in force."""

    located: Located
    origin: Origin


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change did to the resources in force."""

    upserts: tuple[Located, ...] = ()
    deletes: tuple[ResourceKey, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything did change."""
        return bool(self.upserts or self.deletes)


class Inventory:
    """The layers. A key in several of them is in force as the first one has it."""

    def __init__(self) -> None:
        """Begin empty."""
        self._layers: Mapping[Origin, dict[ResourceKey, Located]] = {origin: {} for origin in Origin}

    def get(self, key: ResourceKey) -> Item | None:
        """The resource in force."""
        for origin, layer in self._layers.items():
            if key in layer:
                return Item(layer[key], origin)
        return None

    def items(self) -> Iterator[Item]:
        """All resources in force, sorted by key."""
        keys = {key for layer in self._layers.values() for key in layer}
        for key in sorted(keys, key=str):
            item = self.get(key)
            if item is not None:
                yield item

    def located(self) -> tuple[Located, ...]:
        """All resources in force, sorted by key."""
        return tuple(item.located for item in self.items())

    def layer(self, origin: Origin) -> Mapping[ResourceKey, Located]:
        """What one origin has given."""
        return dict(self._layers[origin])

    def change(self, origin: Origin, upserts: Iterable[Located] = (), deletes: Iterable[ResourceKey] = ()) -> Changed:
        """Change one layer; returns what that did to the resources in force."""
        upserts, deletes = tuple(upserts), tuple(deletes)
        keys = list(dict.fromkeys([*(located.resource.key for located in upserts), *deletes]))
        before = {key: self.get(key) for key in keys}
        layer = self._layers[origin]
        for key in deletes:
            layer.pop(key, None)
        for located in upserts:
            layer[located.resource.key] = located
        changed: list[Located] = []
        gone: list[ResourceKey] = []
        for key in keys:
            old, new = before[key], self.get(key)
            if new is None:
                if old is not None:
                    gone.append(key)
            elif old is None or old.located is not new.located:
                changed.append(new.located)
        return Changed(tuple(changed), tuple(gone))

"""The set of resources the control plane holds: an immutable map, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Keys by what happened to them; resources applied with equal content are `unchanged`."""

    created: frozenset[ResourceKey] = frozenset()
    updated: frozenset[ResourceKey] = frozenset()
    deleted: frozenset[ResourceKey] = frozenset()
    unchanged: frozenset[ResourceKey] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.created or self.updated or self.deleted)

    @property
    def keys(self) -> frozenset[ResourceKey]:
        """Everything that is different now."""
        return self.created | self.updated | self.deleted


class Store(Mapping[ResourceKey, Located]):
    """Immutable. Iterates in the order of keys, whatever the order of changes was."""

    def __init__(self, items: Mapping[ResourceKey, Located] | None = None) -> None:
        self._items: dict[ResourceKey, Located] = dict(sorted((items or {}).items(), key=lambda item: item[0]))

    def __getitem__(self, key: ResourceKey) -> Located:
        return self._items[key]

    def __iter__(self) -> Iterator[ResourceKey]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def located(self) -> tuple[Located, ...]:
        """All resources with their positions, to build a MeshView from."""
        return tuple(self._items.values())

    def with_changes(self, upserts: Iterable[Located], deletes: Iterable[ResourceKey] = ()) -> tuple[Store, ChangeSet]:
        """The store after `deletes` and then `upserts` (the last of equal keys counts), and what changed by it."""
        items = dict(self._items)
        for key in deletes:
            items.pop(key, None)
        new = {located.resource.key: located for located in upserts}
        items.update(new)
        old = self._items
        changes = ChangeSet(
            created=frozenset(key for key in new if key not in old),
            updated=frozenset(key for key in new if key in old and old[key].resource != new[key].resource),
            deleted=frozenset(key for key in old if key not in items),
            unchanged=frozenset(key for key in new if key in old and old[key].resource == new[key].resource),
        )
        return Store(items), changes

"""Which labels a selector selects, and indexes that answer it without looking at every object."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
Labels = Mapping[str, str]


def selects(selector: Labels, labels: Labels) -> bool:
    """Whether all labels of `selector` are among `labels`; an empty selector selects everything."""
    return all(labels.get(key) == value for key, value in selector.items())


class LabelIndex(Generic[T]):
    """Objects by their labels, to find those that a selector selects."""

    def __init__(self, items: Iterable[tuple[Labels, T]]) -> None:
        self._items = tuple(items)
        self._by_label: dict[tuple[str, str], list[int]] = {}
        for position, (labels, _) in enumerate(self._items):
            for pair in labels.items():
                self._by_label.setdefault(pair, []).append(position)

    def select(self, selector: Labels) -> tuple[T, ...]:
        """The objects that `selector` selects, in the order they were given."""
        if not selector:
            return tuple(item for _, item in self._items)
        candidates = min((self._by_label.get(pair, ()) for pair in selector.items()), key=len)
        found = (self._items[position] for position in candidates)
        return tuple(item for labels, item in found if selects(selector, labels))


class SelectorIndex(Generic[T]):
    """Objects by their selectors, to find those that select some labels: the reverse of `LabelIndex`."""

    def __init__(self, items: Iterable[tuple[Labels, T]]) -> None:
        self._items: Sequence[tuple[Labels, T]] = tuple(items)
        self._everything: list[int] = []
        self._by_label: dict[tuple[str, str], list[int]] = {}
        uses = Counter(pair for selector, _ in self._items for pair in selector.items())
        for position, (selector, _) in enumerate(self._items):
            if selector:  # filed under its rarest label, so that few others lie with it
                rarest = min(selector.items(), key=lambda pair: (uses[pair], pair))
                self._by_label.setdefault(rarest, []).append(position)
            else:
                self._everything.append(position)

    def selecting(self, labels: Labels) -> tuple[T, ...]:
        """The objects whose selector selects `labels`, in the order they were given."""
        positions = list(self._everything)
        for pair in labels.items():
            positions += self._by_label.get(pair, ())
        found = (self._items[position] for position in sorted(positions))
        return tuple(item for selector, item in found if selects(selector, labels))


def by_namespace(items: Iterable[T], namespace: Callable[[T], str]) -> dict[str, list[T]]:
    """Objects of each namespace, in the order they were given."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(namespace(item), []).append(item)
    return groups

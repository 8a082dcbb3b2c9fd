"""One pass over a header block, and where it may begin: blocks of one client mostly begin with the same fields."""

from typing import Final, Generic, Protocol, TypeVar

from lateen.wire.fields import field_end

_MOST_PREFIXES: Final = 16
_LONGEST: Final = 1024
_SHORTEST: Final = 24
_LEARN_EVERY: Final = 8  # misses: so that blocks that have nothing in common cost little more for being looked at


class Walk:
    """What a pass has found up to a place in the block."""

    __slots__ = ("at", "count", "malformed", "regular", "special", "spots")

    def __init__(self) -> None:
        """At the beginning."""
        self.at = 0
        self.spots: dict[str, int] = {}  # of each name, its last value
        self.special: list[bytes] = []  # the fields that mean something to us, as sent
        self.count = 0
        self.regular = False  # there was a field that is no pseudo-header
        self.malformed = False

    def copy(self) -> "Walk":
        """The same, to go on from."""
        walk = Walk()
        walk.at = self.at
        walk.spots = self.spots.copy()
        walk.special = self.special.copy()
        walk.count = self.count
        walk.regular = self.regular
        walk.malformed = self.malformed
        return walk


class Refusing(Protocol):
    """What a beginning means when nothing that follows has a meaning to us."""

    @property
    def refusal(self) -> object:
        """Why that is no call we serve."""
        ...


_Head = TypeVar("_Head", bound=Refusing)


class Prefixes(Generic[_Head]):
    """Walks over what many blocks begin with. What two missed blocks have in common is learned; the table is small, and starts anew."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._walks: dict[bytes, Walk] = {}
        self._heads: dict[bytes, _Head] = {}  # of those that are all of a good request
        self._sizes: tuple[int, ...] = ()
        self._missed = b""
        self._misses = 0

    def __len__(self) -> int:
        """How many beginnings are known."""
        return len(self._walks)

    def start(self, block: bytes) -> Walk | None:
        """A walk to go on from."""
        for size in self._sizes:
            walk = self._walks.get(block[:size])
            if walk is not None:
                return walk.copy()
        return None

    def head(self, block: bytes) -> tuple[_Head | None, int]:
        """A head of what the block begins with, and where that ends."""
        for size in self._sizes:
            head = self._heads.get(block[:size])
            if head is not None:
                return head, size
        return None, 0

    def new_prefix(self, block: bytes) -> bytes:
        """After a miss: a beginning worth knowing; empty if there is none."""
        self._misses += 1
        if self._misses % _LEARN_EVERY > 1:
            return b""
        before, self._missed = self._missed, block
        same = _common(before, block)
        end = 0
        while end < same and (following := field_end(block, end)) <= same:
            end = following
        return block[:end] if end >= _SHORTEST else b""

    def learn(self, prefix: bytes, walk: Walk, head: _Head) -> None:
        """Know this beginning from now on."""
        if len(self._walks) >= _MOST_PREFIXES:
            self._walks.clear()
            self._heads.clear()
        self._walks[prefix] = walk
        if walk.regular and head.refusal is None:
            self._heads[prefix] = head
        self._sizes = tuple(sorted({len(known) for known in self._walks}, reverse=True))


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with, found by halving."""
    low, high = 0, min(len(one), len(other), _LONGEST)
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low

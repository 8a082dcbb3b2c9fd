"""How long a regular expression can take at worst, estimated from its structure.

One that backtracks without end is refused with the configuration, and not met with the first hostile request.

Python's `re` tries the ways a pattern can match one after the other. The number of ways is bounded here from above: a repeat that
what follows it can also match multiplies it, one that what follows cannot match does not (`[a-z]+=` has one way, `.*=` as many as
the input is long), and a repeat of something that itself has several ways takes it to the power: `(a+)+` is refused.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

LONGEST_PATTERN = 2000
LONGEST_INPUT = 2048
"""Characters a pattern of a configuration is ever given, unless its filter says otherwise."""
MOST_STEPS = 25_000_000
"""What one search may cost at worst, in steps of the matcher: some tenths of a second, which the CPU limit then ends."""
OTHER = 256
"""Stands for every character beyond Latin-1."""
EVERY = frozenset(range(OTHER + 1))
ENDLESS = 10**12

Item: TypeAlias = "tuple[Any, Any]"
"""Operation and argument, as the parser of `re` makes them."""


class Cost(NamedTuple):
    """What matching costs at worst."""

    ways: int
    """Ways to match from one start."""
    steps: int
    """Steps of the matcher from one start."""
    width: int
    """Characters a match can span."""
    anchored: bool
    """Only tried at the start of the input."""


class UnsafePatternError(ValueError):
    """A pattern may take too long, or cannot be judged."""


def check_pattern(pattern: "re.Pattern[str]", longest: int = LONGEST_INPUT) -> None:
    """UnsafePatternError if searching `pattern` in `longest` characters can take more than MOST_STEPS."""
    if len(pattern.pattern) > LONGEST_PATTERN:
        raise UnsafePatternError(f"the regular expression is longer than {LONGEST_PATTERN} characters")
    cost = worst_case(pattern, longest)
    steps = cost.steps if cost.anchored else cost.steps * longest
    if steps > MOST_STEPS:
        raise UnsafePatternError(
            f"the regular expression {shortened(pattern.pattern)} may take {steps:.0e} steps on {longest} characters: "
            "bound its repeats ({0,20} in place of *), or let what follows a repeat not match what is repeated"
        )


def shortened(text: str, longest: int = 60) -> str:
    """`text` for a message."""
    return repr(text if len(text) <= longest else text[:longest] + "...")


def worst_case(pattern: "re.Pattern[str]", longest: int) -> Cost:
    """The cost of matching `pattern` in `longest` characters; UnsafePatternError if it cannot be told."""
    # The parser of `re` itself, the one thing that reads patterns as `re` does; typeshed leaves it out.
    tree = vars(re)["_parser"].parse(pattern.pattern, pattern.flags)
    items = _items(tree)
    width = min(int(tree.getwidth()[1]), longest)
    anchored = (
        bool(items) and str(items[0][0]) == "AT" and str(items[0][1]) in ANCHORS and not pattern.flags & re.MULTILINE
    )
    return Cost(*_sequence(items, frozenset(), longest), width, anchored)


ANCHORS = frozenset({"AT_BEGINNING", "AT_BEGINNING_STRING"})
REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})
CHARACTERS = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY", "RANGE"})


def _items(tree: Any) -> list[Item]:  # noqa: ANN401  (a SubPattern)
    return list(tree)


def _sequence(items: Sequence[Item], follow: frozenset[int], longest: int) -> tuple[int, int]:
    """Ways to match a sequence, and the steps of trying them all; `follow` is what may come after it."""
    ways, steps = 1, 0
    for place, item in enumerate(items):
        after, nullable = _first(items[place + 1 :])
        more, each = _item(item, after | follow if nullable else after, longest)
        steps = min(ENDLESS, steps + ways * each)
        ways = min(ENDLESS, ways * more)
    return ways, steps


def _item(item: Item, follow: frozenset[int], longest: int) -> tuple[int, int]:
    """The same of one item."""
    operation, argument = str(item[0]), item[1]
    if operation in CHARACTERS or operation == "AT":
        return 1, 1
    if operation == "SUBPATTERN":
        return _sequence(_items(argument[3]), follow, longest)
    if operation == "BRANCH":
        return _branch(argument[1], follow, longest)
    if operation in REPEATS:
        low, high, inner = argument
        return _repeat(int(low), min(int(high), longest), _items(inner), follow, longest)
    if operation in ("ASSERT", "ASSERT_NOT"):
        return _sequence(_items(argument[1]), frozenset(), longest)
    if operation == "ATOMIC_GROUP":
        return _sequence(_items(argument), follow, longest)
    if operation in ("GROUPREF", "GROUPREF_EXISTS", "GROUPREF_IGNORE"):
        raise UnsafePatternError("the regular expression refers back to a group: its cost cannot be bounded")
    raise UnsafePatternError(f"the regular expression uses {operation}, whose cost is not known")


def _branch(alternatives: Sequence[object], follow: frozenset[int], longest: int) -> tuple[int, int]:
    """One way at a time if they begin differently, else all of them."""
    each = [_items(alternative) for alternative in alternatives]
    costs = [_sequence(items, follow, longest) for items in each]
    steps = min(ENDLESS, sum(cost[1] + 1 for cost in costs))
    taken: frozenset[int] = frozenset()
    for items in each:
        first, nullable = _first(items)
        if nullable or first & taken:
            return min(ENDLESS, sum(cost[0] for cost in costs)), steps
        taken |= first
    return max(cost[0] for cost in costs), steps


def _repeat(low: int, most: int, inner: list[Item], follow: frozenset[int], longest: int) -> tuple[int, int]:
    first, nullable = _first(inner)
    if nullable and most > 1:
        raise UnsafePatternError("the regular expression repeats something that may be empty")
    ways, steps = _sequence(inner, first | follow if most > 1 else follow, longest)
    if ways > 1 and most > 1:  # as many ways again for each time round
        ways = ENDLESS if most * ways.bit_length() > ENDLESS.bit_length() * 2 else min(ENDLESS, ways**most)
        steps = min(ENDLESS, steps * ways)
    elif most > 1 and any(
        _looks(item) for item in inner
    ):  # looking ahead takes up no input: it is done again each time
        steps = min(ENDLESS, steps * most)
    elif most > 1:  # each time round takes up input of its own
        steps = min(steps * most, 2 * longest)
    # What cannot follow a shorter match fails at once there: that is one way.
    return (min(ENDLESS, ways * (most - low + 1)) if first & follow else ways), steps + 1


def _looks(item: Item) -> bool:
    """Whether an item looks ahead or behind, anywhere in it."""
    operation, argument = str(item[0]), item[1]
    if operation in ("ASSERT", "ASSERT_NOT"):
        return True
    if operation in REPEATS:
        return any(map(_looks, _items(argument[2])))
    if operation in ("SUBPATTERN", "ATOMIC_GROUP"):
        return any(map(_looks, _items(argument[3] if operation == "SUBPATTERN" else argument)))
    return operation == "BRANCH" and any(_looks(each) for alternative in argument[1] for each in _items(alternative))


def _first(items: Sequence[Item]) -> tuple[frozenset[int], bool]:
    """Characters a match of the sequence can begin with, and whether it can be empty."""
    found: frozenset[int] = frozenset()
    for item in items:
        first, nullable = _first_of(item)
        found |= first
        if not nullable:
            return found, False
    return found, True


def _first_of(item: Item) -> tuple[frozenset[int], bool]:
    operation, argument = str(item[0]), item[1]
    if operation in CHARACTERS:
        return _characters(item), False
    if operation == "AT" and str(argument) in ENDS:
        return LINE_END, True
    if operation in ("AT", "ASSERT", "ASSERT_NOT"):
        return EVERY, True  # where it fails, all that came before is tried again
    if operation == "SUBPATTERN":
        return _first(_items(argument[3]))
    if operation == "ATOMIC_GROUP":
        return _first(_items(argument))
    if operation == "BRANCH":
        firsts = [_first(_items(alternative)) for alternative in argument[1]]
        return frozenset().union(*(first for first, _ in firsts)), any(nullable for _, nullable in firsts)
    if operation in REPEATS:
        low, _, inner = argument
        first, nullable = _first(_items(inner))
        return first, nullable or int(low) == 0
    return EVERY, True


ENDS = frozenset({"AT_END", "AT_END_LINE", "AT_END_STRING"})
LINE_END = frozenset({ord("\n")})


def _characters(item: Item) -> frozenset[int]:
    """What one character of the input may be, in either case."""
    operation, argument = str(item[0]), item[1]
    if operation == "LITERAL":
        return _either_case({_bounded(argument)})
    if operation == "NOT_LITERAL":
        return EVERY - {_bounded(argument)} | {OTHER}
    if operation == "RANGE":
        low, high = argument
        return _either_case(set(range(_bounded(low), _bounded(high) + 1)))
    if operation == "CATEGORY":
        return CATEGORIES.get(str(argument), EVERY)
    if operation == "IN":
        members = _items(argument)
        if str(members[0][0]) != "NEGATE":
            return frozenset().union(*(_characters(member) for member in members))
        exact = frozenset().union(*(_exact(member) for member in members[1:]))
        return EVERY - exact | {OTHER}
    return EVERY


def _exact(item: Item) -> frozenset[int]:
    """What surely is in a member of a set; used where the set is negated."""
    operation, argument = str(item[0]), item[1]
    if operation == "LITERAL":
        return frozenset({_bounded(argument)})
    if operation == "RANGE":
        low, high = argument
        return frozenset(range(_bounded(low), _bounded(high) + 1))
    return CATEGORIES.get(str(argument), frozenset())


def _bounded(code: int) -> int:
    return min(code, OTHER)


def _either_case(codes: set[int]) -> frozenset[int]:
    found = set(codes)
    if OTHER in codes:
        found |= FOLDED
    elif codes & FOLDED:
        found.add(OTHER)
    for code in codes - {OTHER}:
        letter = chr(code)
        found |= {min(ord(other), OTHER) for other in letter.lower() + letter.upper()}
    return frozenset(found)


FOLDED = frozenset(map(ord, "iIkKsS\xb5\xc5\xdf\xe5\xff"))
"""Letters that letters beyond Latin-1 are taken for when case is ignored, and the other way round."""


def _category(text: str) -> frozenset[int]:
    matcher = re.compile(text)
    return frozenset(code for code in range(OTHER) if matcher.match(chr(code)))


CATEGORIES = {
    "CATEGORY_DIGIT": _category(r"\d") | {OTHER},
    "CATEGORY_NOT_DIGIT": _category(r"\D") | {OTHER},
    "CATEGORY_SPACE": _category(r"\s") | {OTHER},
    "CATEGORY_NOT_SPACE": _category(r"\S") | {OTHER},
    "CATEGORY_WORD": _category(r"\w") | {OTHER},
    "CATEGORY_NOT_WORD": _category(r"\W") | {OTHER},
}

"""Host names: short names, wildcards, and which of several matching names is the most specific. Pure strings, no models."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

DOMAIN_SUFFIX = "svc.cluster.local"
ANY_HOST = "*"

T = TypeVar("T")


def fqdn(host: str, namespace: str) -> str:
    """The full name an object in `namespace` means: a name without a dot is a service of that namespace (Istio's rule)."""
    host = host.lower()
    if "." in host or ":" in host or not host or is_wildcard(host):
        return host
    return service_host(host, namespace)


def service_host(name: str, namespace: str) -> str:
    """The name of a Kubernetes Service."""
    return f"{name}.{namespace}.{DOMAIN_SUFFIX}"


def short_names(host: str, client_namespace: str) -> tuple[str, ...]:
    """Shorter names by which a client in `client_namespace` may call the Kubernetes Service `host`, shortest first."""
    if not host.endswith(f".{DOMAIN_SUFFIX}"):
        return ()
    name, _, namespace = host.removesuffix(f".{DOMAIN_SUFFIX}").rpartition(".")
    if not name:
        return ()
    qualified = (f"{name}.{namespace}", f"{name}.{namespace}.svc")
    return (name, *qualified) if namespace == client_namespace else qualified


def is_wildcard(host: str) -> bool:
    """Whether `host` stands for more than one name."""
    return host.startswith("*")


def covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` stands for is one that `pattern` stands for; both may be wildcards."""
    pattern, host = pattern.lower(), host.lower()
    if not is_wildcard(pattern):
        return pattern == host
    if not is_wildcard(host):
        return len(host) >= len(pattern) and host.endswith(pattern[1:])
    return host[1:].endswith(pattern[1:])


def intersect(left: str, right: str) -> str | None:
    """The more specific of two host patterns when one covers the other, else None."""
    if covers(left, right):
        return right.lower()
    return left.lower() if covers(right, left) else None


def specificity(host: str) -> tuple[bool, int]:
    """Sorts host patterns: the greatest is the most specific. Exact beats wildcard, then the longer one."""
    return (not is_wildcard(host), len(host))


def most_specific(host: str, patterns: Iterable[str]) -> str | None:
    """The most specific of `patterns` that covers `host`."""
    return max((pattern for pattern in patterns if covers(pattern, host)), key=specificity, default=None)


def similar(word: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, or nothing."""
    candidates = sorted(set(known))
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.75)
    return close[0] if close else ""


class HostIndex(Generic[T]):
    """Values by host pattern; a lookup costs the length of the name, however many patterns there are."""

    def __init__(self, items: Iterable[tuple[str, T]] = ()) -> None:
        self._exact: dict[str, list[T]] = {}
        self._wildcards: dict[str, list[T]] = {}
        for host, value in items:
            host = host.lower()  # noqa: PLW2901 host names have no case
            table, key = (self._wildcards, host[1:]) if is_wildcard(host) else (self._exact, host)
            table.setdefault(key, []).append(value)

    def __bool__(self) -> bool:
        return bool(self._exact or self._wildcards)

    def most_specific(self, host: str) -> tuple[T, ...]:
        """The values of the most specific pattern that covers `host`, in the order they were given."""
        return next(self.matches(host), ())

    def matches(self, host: str) -> Iterator[tuple[T, ...]]:
        """The values of each pattern that covers `host`, the most specific pattern first."""
        host = host.lower()
        wild = is_wildcard(host)
        if not wild and host in self._exact:
            yield tuple(self._exact[host])
        # A wildcard needs at least one character for its star, unless the name asked for is a wildcard itself.
        for start in range(1, len(host) + 1) if self._wildcards else ():
            found = self._wildcards.get(host[start:])
            if found:
                yield tuple(found)

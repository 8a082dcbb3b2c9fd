"""The order in which resources take precedence everywhere: the oldest first, then by name, then by namespace."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeVar

from lateen.mesh.metadata import Resource

R = TypeVar("R", bound=Resource)
_OLDEST = datetime.min.replace(tzinfo=UTC)


def instant(created: datetime | None) -> datetime:
    """A creation time that can be compared; none is the oldest, as the zero time is in Istio."""
    if created is None:
        return _OLDEST
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def age_key(resource: Resource) -> tuple[datetime, str, str]:
    """Sorts by creation, name and namespace."""
    return (instant(resource.metadata.creation_timestamp), resource.name, resource.namespace)


def oldest_first(resources: Iterable[R]) -> list[R]:
    """The order of precedence."""
    return sorted(resources, key=age_key)

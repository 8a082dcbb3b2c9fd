"""Encoded resources: each distinct content is serialized once and shared by every snapshot that holds it."""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from collections.abc import Iterable

from google.protobuf.message import Message

from lateen.mesh.kinds import ResourceKey


@dataclasses.dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Blob:
    """One resource as it goes on the wire. `hash` is of the content, so equal content has an equal version for ever.

    What is `awaited` has its place, but nothing of it is told yet: the client goes on with what it has, or waits.
    """

    type_url: str
    name: str
    hash: str
    data: bytes
    origins: tuple[ResourceKey, ...] = ()
    awaited: bool = False


class Blobs:
    """Interner by content: the same bytes of the same name and type are one object while anyone holds it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str, str, str], Blob] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        """How many distinct blobs are alive."""
        return len(self._known)

    def intern(
        self,
        type_url: str,
        name: str,
        message: Message,
        origins: Iterable[ResourceKey] = (),
        *,
        awaited: bool = False,
    ) -> Blob:
        """Serialize deterministically and return the one blob of that content."""
        data = message.SerializeToString(deterministic=True)
        digest = hashlib.blake2b(data, digest_size=12).hexdigest()
        digest = f"{digest}-awaited" if awaited else digest
        key = (type_url, name, digest)
        found = self._known.get(key)
        if found is None:
            found = Blob(type_url, name, digest, data, tuple(dict.fromkeys(origins)), awaited)
            self._known[key] = found
        return found

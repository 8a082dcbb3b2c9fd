"""A proxy's whole configuration as references to interned blobs."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lateen.controlplane.blobs import Blob
    from lateen.controlplane.proxy import Proxy
    from lateen.mesh.diagnostics import Diagnostic
    from lateen.mesh.view import MeshView


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Every resource of one proxy, by type URL and name. `version` is a hash of the content."""

    version: str
    resources: Mapping[str, Mapping[str, Blob]]
    diagnostics: tuple[Diagnostic, ...] = ()

    @classmethod
    def of(
        cls, blobs: Iterable[Blob], diagnostics: Iterable[Diagnostic] = ()
    ) -> Snapshot:
        """Group blobs by type, sorted by name, and hash them into the version."""
        by_type: dict[str, dict[str, Blob]] = {}
        for blob in sorted(blobs, key=lambda b: (b.type_url, b.name)):
            by_type.setdefault(blob.type_url, {})[blob.name] = blob
        digest = hashlib.blake2b(digest_size=12)
        for type_url, named in by_type.items():
            for name, blob in named.items():
                digest.update(f"{type_url}\0{name}\0{blob.hash}\n".encode())
        return cls(digest.hexdigest(), by_type, tuple(diagnostics))

    def check(self) -> None:
        """Raise ValueError when a listener names a route, or a route a cluster, that is absent (our bug, never the user's)."""
        raise NotImplementedError


class Memo:
    """What snapshots of one control plane share: the interner for ever, translated outbound parts for the current view."""


def snapshot_for(view: MeshView, proxy: Proxy, memo: Memo | None = None) -> Snapshot:
    """Everything `proxy` needs, translated from `view`. Pure: `memo` only saves time."""
    raise NotImplementedError

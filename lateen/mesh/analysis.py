"""Findings about how resources fit together: dangling references, conflicts, policies that select nothing. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lateen.mesh.diagnostics import Diagnostic
    from lateen.mesh.view import MeshView


def analyze(view: MeshView) -> tuple[Diagnostic, ...]:
    """All findings, in the order of file, line and code."""
    raise NotImplementedError

"""Looks, in the background, for what is to blame for refused route configurations of which nothing older is known."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from lateen.controlplane.blobs import Blob
from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.names import RDS
from lateen.controlplane.quarantine import Quarantine
from lateen.controlplane.route_trial import Guilty, RouteTrial, guilty
from lateen.controlplane.session import Refused

_MAX_WAITING = 1_000


class Blame:
    """One search at a time. A refused configuration that nobody wants any more is not searched, nor one whose culprit is known."""

    def __init__(
        self,
        trial: RouteTrial,
        quarantine: Quarantine,
        wanted: Callable[[Blob], bool],
        found: Callable[[Refused, Sequence[Guilty]], None],
    ) -> None:
        """`wanted`: whether some proxy should have it; `found` hears the parts that are refused by themselves."""
        self._trial = trial
        self._quarantine = quarantine
        self._wanted = wanted
        self._found = found
        self._waiting: dict[Blob, Refused] = {}
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    def look_for(self, event: Refused) -> None:
        """Search what this proxy refused, unless that is on its way already."""
        if event.type_url != RDS or event.blob in self._waiting or len(self._waiting) >= _MAX_WAITING:
            return
        self._waiting[event.blob] = event
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._search_all())

    def close(self) -> None:
        """Stop searching."""
        if self._task is not None:
            self._task.cancel()

    async def _search_all(self) -> None:
        try:
            while self._waiting:
                blob, event = next(iter(self._waiting.items()))
                try:
                    await self._search(event)
                finally:
                    del self._waiting[blob]
        finally:
            self._task = None

    async def _search(self, event: Refused) -> None:
        aside = self._quarantine.refusals
        if not self._wanted(event.blob) or any(q.refused is event.blob for q in aside):
            return
        try:
            parts = await guilty(event.blob, self._trial, {q.located.resource.key for q in aside})
        except TrialUnavailableError as error:
            self._log.error(
                "cannot find out what is to blame, other changes in it wait",
                resource=event.blob.name,
                reason=str(error),
            )
            return
        except Exception:  # noqa: BLE001 - whatever it is, other searches go on
            self._log.exception("cannot find out what is to blame, other changes in it wait", resource=event.blob.name)
            return
        if parts:
            self._found(event, parts)
        elif self._wanted(event.blob):
            self._log.warning(
                "refused, but no part of it by itself: other changes in it wait",
                resource=event.blob.name,
                message=event.message,
            )

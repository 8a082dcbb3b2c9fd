"""The keys that Envoy verifies tokens with, where it does so itself: fetched in the background, and pushed when they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lateen.clock import Clock
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper, KeyUri, Timing
from lateen.jwks.keys import KeySet
from lateen.jwks.page import keys_page
from lateen.mesh.authorizationpolicy import Action
from lateen.mesh.engine import engine_of
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.requestauthentication import RequestAuthentication
from lateen.mesh.view import MeshView
from lateen.policy.compile import PolicyOrigin
from lateen.policy.tokens import KeySource, TokenRule, compile_token_rules

REFRESH_SECONDS: Final = 60.0
"""How often keys are fetched for proxies: nobody tells us when a proxy meets a `kid` that it does not know, so this bounds a rotation."""
_FIRST_ANSWERS_SECONDS: Final = 5.0  # as long as a fetch may take by default
_TIMING: Final = Timing(refresh=REFRESH_SECONDS, retry_ceiling=REFRESH_SECONDS)


class Keys:
    """Follows the key sources of a mesh. `of` may be called from any thread; everything else belongs to the event loop."""

    def __init__(self, overrides: Mapping[str, str], ca_file: str, clock: Clock, changed: Callable[[], None]) -> None:
        """`changed` is told when other keys are held than before; stale keys stay while a refresh fails."""
        self._client = http_client(ca_file)
        self._keeper = KeyKeeper(self._client, overrides=overrides, timing=_TIMING, clock=clock, on_change=changed)
        self._page = keys_page(self._keeper)

    def of(self, source: KeySource) -> KeySet | None:
        """The keys held now; None when none were ever fetched."""
        return self._keeper.keys(KeyUri(source.url, source.issuer))

    def page(self) -> Mapping[str, Any]:
        """How it stands with every source, and the public keys: `GET /v1/keys`."""
        return self._page()

    async def follow(self, view: MeshView) -> None:
        """Fetch what the proxies of this view need, and nothing else; waits 5 s at most for sources never asked before.

        So a proxy that begins to verify tokens itself begins with keys, unless their issuer is slow or down.
        """
        self._keeper.want(
            (KeyUri(rule.keys.url, rule.keys.issuer), rule.fetch_timeout) for rule in token_rules_of_proxies(view)
        )
        await self._keeper.asked(_FIRST_ANSWERS_SECONDS)

    async def close(self) -> None:
        """End all fetching."""
        await self._keeper.close()
        await self._client.aclose()


def token_rules_of_proxies(view: MeshView) -> Iterator[TokenRule]:
    """The rules whose keys are fetched for proxies: those of native workloads, and where CUSTOM policies may look at claims."""
    if not view.get("RequestAuthentication"):
        return
    wanted: dict[str, RequestAuthentication] = {}
    for workload in {w.key: w for w in view.workloads}.values():
        native = engine_of(view, workload) is EnforcementEngine.NATIVE
        if native or any(p.spec.action is Action.CUSTOM for p in view.authorization_policies(workload)):
            wanted.update((str(a.key), a) for a in view.request_authentications(workload))
    for authentication in wanted.values():
        rules = compile_token_rules(
            [(PolicyOrigin(authentication.namespace, authentication.name), authentication.spec)]
        )
        yield from (rule for rule in rules.rules if rule.keys.url or rule.keys.issuer)

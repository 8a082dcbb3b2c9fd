"""trace-context: W3C trace headers that are valid, in every request."""

import secrets
from typing import Literal

from filters.library.addresses import check_identities, matches_identity, parse_networks, parse_source, within
from filters.library.credentials import check_header
from filters.library.trace_headers import (
    KEY,
    RANDOM,
    SAMPLED,
    VALUE,
    Parent,
    parse_parent,
    parse_state,
    render_state,
    samples,
    with_member,
)
from lateen_filter import FilterConfig, HttpFilter, Request, Response

PARENT, STATE = "traceparent", "tracestate"
MOST_PERCENT = 100
LEAST_STATE, MOST_STATE = 512, 8192


class TraceContext(HttpFilter):
    """Starts a trace where a request has none, passes on the one it has, and drops what is not valid.

    It reports no spans. A caller's traceparent therefore goes on as it is (W3C Trace Context 3.2), in version 00; only who
    changes the sampling decision, or restarts the trace, becomes a parent.
    """

    class Config(FilterConfig):
        incoming: Literal["continue", "trusted", "restart"] = "continue"
        """Whose traces go on: everybody's, those of trusted clients (below), or nobody's: then each request starts one."""
        trusted_addresses: tuple[str, ...] = ()
        """Networks and addresses: "10.0.0.0/8"."""
        trusted_identities: tuple[str, ...] = ()
        """SPIFFE identities; a `*` at the end makes a prefix."""
        sample_percent: float = 100.0
        """Of traces that start here, by trace id: every Envoy with the same percentage decides alike."""
        override_sampling: bool = False
        """Decide for traces that go on too, not only for new ones."""
        state_key: str = ""
        """Put a member of this key in front of tracestate."""
        state_value: str = ""
        longest_state: int = 512
        """Characters of tracestate that are passed on; the standard asks for 512."""
        response_header: str = ""
        """Tell the client the trace id in this header."""

        def validate(self) -> None:
            parse_networks(self.trusted_addresses, "trustedAddresses")
            check_identities("trustedIdentities", self.trusted_identities)
            if self.incoming == "continue" and (self.trusted_addresses or self.trusted_identities):
                raise ValueError("trustedAddresses and trustedIdentities restrict nothing unless incoming is trusted")
            if not 0 <= self.sample_percent <= MOST_PERCENT:
                raise ValueError(f"samplePercent is {self.sample_percent}: between 0 and {MOST_PERCENT}")
            if not LEAST_STATE <= self.longest_state <= MOST_STATE:
                raise ValueError(f"longestState is {self.longest_state}: between {LEAST_STATE} and {MOST_STATE}")
            if bool(self.state_key) != bool(self.state_value):
                raise ValueError("stateKey and stateValue belong together")
            if self.state_key and not KEY.fullmatch(self.state_key):
                raise ValueError(f"stateKey {self.state_key!r} is no key of tracestate")
            if self.state_value and not VALUE.fullmatch(self.state_value):
                raise ValueError(f"stateValue {self.state_value!r} is no value of tracestate")
            if self.response_header:
                check_header("responseHeader", self.response_header, written=True)

    config: Config

    def on_start(self) -> None:
        self._networks = parse_networks(self.config.trusted_addresses)

    def on_request(self, request: Request) -> None:
        headers, config = request.headers, self.config
        given = headers.get_all(PARENT) if PARENT in headers else []
        parent = parse_parent(given) if given and self._continues(request) else None
        # Without a valid traceparent a tracestate means nothing and must not be read (3.3).
        states = headers.get_all(STATE) if STATE in headers else []
        members = (parse_state(states) or []) if parent and states else []
        found = continued(parent, config) if parent else started(config)
        if config.state_key:
            members = with_member(members, config.state_key, config.state_value)
        headers[PARENT] = found.render()
        state = render_state(members, config.longest_state)
        if state:
            headers[STATE] = state
        elif states:
            del headers[STATE]

    def on_response(self, request: Request, response: Response) -> None:
        if self.config.response_header:
            parent = parse_parent(request.headers.get_all(PARENT))
            if parent is not None:
                response.headers[self.config.response_header] = parent.trace_id

    def _continues(self, request: Request) -> bool:
        config = self.config
        if config.incoming != "trusted":
            return config.incoming == "continue"
        properties = request.properties
        return within(parse_source(properties.source_address), self._networks) or matches_identity(
            properties.peer_identity, config.trusted_identities
        )


def started(config: TraceContext.Config) -> Parent:
    """A new trace; its id is random, and says so."""
    trace_id = _random_id(16)
    sampled = SAMPLED if samples(trace_id, config.sample_percent) else 0
    return Parent(trace_id, _random_id(8), RANDOM | sampled)


def continued(parent: Parent, config: TraceContext.Config) -> Parent:
    """The caller's trace, with the sampling decided anew if that is wanted; who changes it becomes the parent (3.4)."""
    if not config.override_sampling or samples(parent.trace_id, config.sample_percent) == parent.sampled:
        return parent
    return Parent(parent.trace_id, _random_id(8), parent.flags ^ SAMPLED)


def _random_id(size: int) -> str:
    while not any(raw := secrets.token_bytes(size)):
        pass  # all 0 is not valid
    return raw.hex()

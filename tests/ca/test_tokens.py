from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ca.identity import Identity
from ca.tokens import MAX_TOKEN_LIFETIME, TokenTable, TooManyTokensError
from tests.ca.builders import NOW

ORDERS = Identity("orders", "orders-svc", ("orders.local",))
MINUTE = timedelta(minutes=1)


def test_a_token_is_good_once() -> None:
    table = TokenTable()
    token = table.mint(ORDERS, NOW, MINUTE)
    assert table.redeem(token, NOW) == ORDERS
    assert table.redeem(token, NOW) is None


def test_a_token_expires() -> None:
    table = TokenTable()
    early, late = table.mint(ORDERS, NOW, MINUTE), table.mint(ORDERS, NOW, MINUTE)
    assert table.redeem(early, NOW + MINUTE - timedelta(microseconds=1)) == ORDERS
    assert table.redeem(late, NOW + MINUTE) is None
    assert table.redeem(late, NOW) is None


def test_a_token_lives_a_day_at_most() -> None:
    table = TokenTable()
    token = table.mint(ORDERS, NOW, timedelta(days=365))
    assert table.redeem(token, NOW + MAX_TOKEN_LIFETIME) is None


@pytest.mark.parametrize(
    "spoil", ["", "x", ".", "{id}", "{id}.", ".{secret}", "{id}.{secret}x", "{id}.A{rest}", "é" * 200, "\ud800."]
)
def test_a_wrong_token_is_refused_and_uses_nothing_up(spoil: str) -> None:
    table = TokenTable()
    token = table.mint(ORDERS, NOW, MINUTE)
    name, _, secret = token.partition(".")
    wrong = spoil.format(id=name, secret=secret, rest=secret[1:] + "x")
    assert table.redeem(wrong, NOW) is None
    assert table.redeem(token, NOW) == ORDERS


def test_the_secret_has_256_bits_and_is_not_kept() -> None:
    table = TokenTable()
    tokens = {table.mint(ORDERS, NOW, MINUTE) for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token.partition(".")[2]) for token in tokens} == {43}
    kept = repr(vars(table))
    assert not any(token.partition(".")[2] in kept for token in tokens)


def test_the_table_is_bounded_and_forgets_expired_tokens_first() -> None:
    table = TokenTable(limit=2)
    table.mint(ORDERS, NOW, MINUTE)
    kept = table.mint(ORDERS, NOW, 3 * MINUTE)
    with pytest.raises(TooManyTokensError):
        table.mint(ORDERS, NOW, MINUTE)
    added = table.mint(ORDERS, NOW + MINUTE, MINUTE)
    assert len(table) == 2
    assert table.redeem(kept, NOW + MINUTE) == table.redeem(added, NOW + MINUTE) == ORDERS


class Tokens(RuleBasedStateMachine):
    """Any order of minting, using and waiting: no token is good twice, late, or for somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.now, self.good = TokenTable(limit=20), NOW, dict[str, tuple[Identity, float]]()
        self.spent: list[str] = []

    @rule(account=st.sampled_from(["a", "b"]), seconds=st.integers(1, 100))
    def mint(self, account: str, seconds: int) -> None:
        identity = Identity("default", account)
        try:
            token = self.table.mint(identity, self.now, timedelta(seconds=seconds))
        except TooManyTokensError:
            assert sum(end > self.now.timestamp() for _, end in self.good.values()) >= 20
        else:
            self.good[token] = (identity, self.now.timestamp() + seconds)

    @rule(data=st.data())
    def redeem(self, data: st.DataObject) -> None:
        if not self.good:
            return
        token = data.draw(st.sampled_from(sorted(self.good)))
        identity, end = self.good.pop(token)
        self.spent.append(token)
        assert self.table.redeem(token, self.now) == (identity if self.now.timestamp() < end else None)

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def spent_stays_spent(self) -> None:
        assert all(self.table.redeem(token, self.now) is None for token in self.spent)


TestTokens = Tokens.TestCase
TestTokens.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.agent.rotation import Credential, Rotation, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
UNIT = st.floats(0, 1, exclude_max=True)


def serving(life: timedelta = DAY) -> Rotation:
    rotation = Rotation("t1")
    rotation.succeeded("t1", NOW, NOW + life, 0.5)
    return rotation


def test_the_token_comes_first_and_the_certificate_afterwards() -> None:
    rotation = Rotation("t1")
    assert (rotation.credential(NOW), rotation.wait(NOW), rotation.state(NOW)) == (
        Credential.TOKEN,
        timedelta(0),
        State.JOINING,
    )
    rotation.succeeded("t1", NOW, NOW + DAY, 0.5)
    assert (rotation.credential(NOW), rotation.state(NOW), rotation.token) == (
        Credential.CERTIFICATE,
        State.SERVING,
        "",
    )


@pytest.mark.parametrize(("unit", "share"), [(0, 0.49), (0.5, 0.5), (1, 0.51)])
def test_rotation_is_due_at_half_life_with_jitter(unit: float, share: float) -> None:
    rotation = Rotation("t1")
    rotation.succeeded("t1", NOW, NOW + DAY, unit)
    assert rotation.wait(NOW) == DAY * share


def test_without_a_token_nothing_is_asked() -> None:
    rotation = Rotation("")
    assert (rotation.credential(NOW), rotation.wait(NOW), rotation.state(NOW)) == (None, None, State.REFUSED)


def test_a_refused_token_is_spent_and_a_new_one_is_tried_at_once() -> None:
    rotation = Rotation("t1")
    rotation.refused("t1", "used", NOW, 0.5)
    assert (rotation.wait(NOW), rotation.problem, rotation.state(NOW)) == (None, "used", State.REFUSED)
    assert rotation.offer("t2", NOW)
    assert (rotation.wait(NOW), rotation.credential(NOW)) == (timedelta(0), Credential.TOKEN)


def test_a_token_registered_while_another_was_refused_is_kept() -> None:
    rotation = Rotation("t1")
    rotation.offer("t2", NOW)
    rotation.refused("t1", "used", NOW, 0.5)
    assert rotation.token == "t2"
    rotation.succeeded("t1", NOW, NOW + DAY, 0.5)
    assert rotation.token == "t2"


def test_an_outage_is_tried_again_with_backoff() -> None:
    rotation, waits = Rotation("t1"), []
    for _ in range(10):
        rotation.unavailable("down", NOW, 1)
        wait = rotation.wait(NOW)
        assert wait is not None
        waits.append(wait.total_seconds())
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert rotation.credential(NOW) is Credential.TOKEN


@given(st.lists(UNIT, min_size=1, max_size=30), st.integers(1, 100_000))
def test_a_failing_renewal_is_tried_several_times_before_expiry(units: list[float], seconds: int) -> None:
    rotation = serving(timedelta(seconds=seconds))
    assert rotation.due is not None
    now, end, tries = rotation.due, NOW + timedelta(seconds=seconds), 0
    for unit in units:
        rotation.unavailable("down", now, unit)
        tries += 1
        wait = rotation.wait(now)
        assert wait is not None
        assert wait <= timedelta(seconds=30)
        # Never does one wait use up what is left, but for the last quarter of a second.
        assert wait <= max((end - now) / 8, timedelta(seconds=0.25))
        now += wait
        if now >= end:
            break
    assert tries == len(units) or now >= end


def test_what_is_served_stays_while_renewals_fail_until_it_expires() -> None:
    rotation = serving()
    rotation.unavailable("down", NOW + DAY / 2, 0.5)
    assert rotation.state(NOW + DAY * 0.99) is State.SERVING
    assert rotation.state(NOW + DAY) is State.EXPIRED
    assert rotation.wait(NOW + DAY) is None
    assert rotation.offer("t2", NOW + DAY)
    assert rotation.credential(NOW + DAY) is Credential.TOKEN


def test_a_refused_certificate_gives_way_to_a_token_if_there_is_one() -> None:
    rotation = serving()
    rotation.refused("", "another root", NOW, 0.5)
    assert rotation.credential(NOW) is Credential.CERTIFICATE
    assert rotation.offer("t2", NOW)
    assert rotation.credential(NOW) is Credential.TOKEN
    rotation.succeeded("t2", NOW, NOW + DAY, 0.5)
    assert rotation.credential(NOW) is Credential.CERTIFICATE


def test_a_certificate_that_tls_refuses_gives_way_after_a_few_failures() -> None:
    rotation = serving()
    assert not rotation.offer("t2", NOW)
    used = []
    for _ in range(5):
        used.append(rotation.credential(NOW))
        rotation.unavailable("handshake failed", NOW, 0.5)
    assert used == [Credential.CERTIFICATE] * 3 + [Credential.TOKEN] * 2


def test_the_token_is_in_no_representation() -> None:
    assert "t0ken" not in repr(Rotation("t0ken"))

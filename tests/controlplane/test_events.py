"""Live events: nobody waits for a listener, and a listener that lags is told so."""

import asyncio

import pytest

from lateen.controlplane.events import Events, TooManyListeners


async def test_a_listener_hears_what_is_published_while_it_listens() -> None:
    events = Events()
    events.publish("before")
    with events.listen() as listener:
        events.publish("first", proxy="a")
        events.publish("second")
        heard = [await anext(aiter(listener)), await anext(aiter(listener))]
    assert heard == [{"event": "first", "proxy": "a"}, {"event": "second"}]


async def test_a_listener_that_lags_loses_the_oldest_and_is_told() -> None:
    events = Events()
    with events.listen() as listener:
        for i in range(300):
            events.publish("tick", i=i)
        stream = aiter(listener)
        assert await anext(stream) == {"event": "lost", "count": 44}
        assert await anext(stream) == {"event": "tick", "i": 44}


async def test_listeners_are_bounded_and_forgotten() -> None:
    events = Events()
    contexts = [events.listen() for _ in range(64)]
    for context in contexts:
        context.__enter__()
    with pytest.raises(TooManyListeners), events.listen():
        pass
    contexts[0].__exit__(None, None, None)
    with events.listen() as listener:
        events.publish("heard")
        async with asyncio.timeout(1):
            assert await anext(aiter(listener)) == {"event": "heard"}

import asyncio
import logging

import pytest

from discovery import Endpoint, ResolverState
from discovery.listeners import ListenerSet
from tests.discovery.helpers import Recorder
from tests.support.waiting import eventually

_ONE = ResolverState((Endpoint("a:1"),), resolved=True)
_TWO = ResolverState((Endpoint("b:2"),), resolved=True)


async def test_a_listener_hears_the_known_state_soon_but_not_at_once() -> None:
    """Never from within add."""
    listeners, listener = ListenerSet(), Recorder()
    listeners.publish(_ONE)

    listeners.add(listener)
    assert listener.states == []

    await eventually(lambda: listener.states == [_ONE])


async def test_only_news_is_told() -> None:
    """An equal state is not told again."""
    listeners, listener = ListenerSet(), Recorder()
    listeners.add(listener)
    for state in (_ONE, _ONE, _TWO, _TWO, _ONE):
        listeners.publish(state)

    await eventually(lambda: listener.states == [_ONE, _TWO, _ONE])


async def test_a_closed_subscription_does_not_even_hear_what_was_on_its_way() -> None:
    """Closing right after a publish wins."""
    listeners, leaver, witness = ListenerSet(), Recorder(), Recorder()
    subscription = listeners.add(leaver)
    listeners.add(witness)

    listeners.publish(_ONE)
    subscription.close()

    await eventually(lambda: witness.states)
    assert leaver.states == []


async def test_a_listener_that_raises_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exception is logged; the next listener and the next state are served."""
    listeners, listener = ListenerSet(), Recorder()

    def raises(state: ResolverState) -> None:
        raise RuntimeError("boom")

    with caplog.at_level(logging.ERROR, "discovery"):
        listeners.add(raises)
        listeners.add(listener)
        listeners.publish(_ONE)
        listeners.publish(_TWO)
        await eventually(lambda: listener.states == [_ONE, _TWO])

    assert len(caplog.records) == 2


async def test_a_listener_may_close_and_add_from_within() -> None:
    """Reentrance is safe, since everything goes through the loop."""
    listeners, late = ListenerSet(), Recorder()

    def reacts(state: ResolverState) -> None:
        subscription.close()
        listeners.add(late)

    subscription = listeners.add(reacts)
    listeners.publish(_ONE)

    await eventually(lambda: late.states == [_ONE])


async def test_the_last_to_leave_is_noticed_once() -> None:
    """on_empty is called when nobody is left, however often they close."""
    emptied = []
    listeners = ListenerSet(lambda: emptied.append(True))
    first, second = listeners.add(Recorder()), listeners.add(Recorder())

    first.close()
    first.close()
    assert emptied == []
    second.close()
    second.close()

    assert emptied == [True]
    await asyncio.sleep(0)

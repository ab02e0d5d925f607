"""For tests of code that balances: the contract of a policy.

`check_policy` states what every Policy must do. The ones shipped here pass it; run it
against your own.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from balancer.policy import Picker, PickInfo, PickResult, Policy, Subchannel
from discovery.endpoint import Endpoint

PICKS_PER_PICKER: Final = 200
SIZES: Final = (1, 2, 7)

_OUTCOMES = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    None,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_INFOS = (
    PickInfo("/pkg.Service/Unary", (), b"request"),
    PickInfo("/pkg.Service/Stream", (("key", "value"), ("key-bin", b"\x00")), None),
    PickInfo("/pkg.Service/Metadata", grpc.aio.Metadata(("key", "value")), object()),
)


@dataclass(slots=True, weakref_slot=True, eq=False)
class FakeSubchannel:
    """A subchannel that is an endpoint and no connection."""

    endpoint: Endpoint
    in_flight: int = 0


def check_policy(policy: Policy) -> None:
    """Checks that `policy` keeps the contract of `balancer.policy`.

    Raises AssertionError naming the broken promise.
    """
    pickers: list[tuple[Picker, tuple[Subchannel, ...]]] = []
    for size in SIZES:
        given: list[Subchannel] = [_subchannel(size, index) for index in range(size)]
        built_from = tuple(given)
        picker = policy.build(given)
        # A snapshot owns what it was built from.
        given.clear()
        pickers.append((picker, built_from))
    # Afterwards, so that each picker has seen later ones being built.
    for picker, built_from in pickers:
        _check_picks(picker, built_from)
    del pickers, picker, built_from
    _check_forgets(policy)


def _check_forgets(policy: Policy) -> None:
    """A channel may live for ever, and see any number of endpoints come and go."""
    gone = _use(policy, 3)
    # The next picker is over others, and after it nothing is left of the last.
    kept = policy.build([_subchannel(1, 0)])
    gc.collect()
    left = [each() for each in gone if each() is not None]
    assert not left, f"{policy!r} still holds subchannels that are gone: {left!r}"
    del kept


def _use(policy: Policy, size: int) -> list[weakref.ref[FakeSubchannel]]:
    subchannels = [_subchannel(size, index) for index in range(size)]
    _check_picks(policy.build(tuple(subchannels)), subchannels)
    return [weakref.ref(each) for each in subchannels]


def _subchannel(size: int, index: int) -> FakeSubchannel:
    zone = "ab"[index % 2]
    return FakeSubchannel(Endpoint(f"10.0.{size}.{index}:1", zone=zone, weight=index + 1))


def _check_picks(picker: Picker, built_from: Sequence[Subchannel]) -> None:
    for turn in range(PICKS_PER_PICKER):
        result = picker.pick(_INFOS[turn % len(_INFOS)])
        assert isinstance(result, PickResult), f"pick returned {result!r}, not a PickResult"
        assert any(result.subchannel is each for each in built_from), (
            f"picked {result.subchannel!r}, which this picker was not built from"
        )
        _check_hook(result, _OUTCOMES[turn % len(_OUTCOMES)])


def _check_hook(result: PickResult, outcome: grpc.StatusCode | None) -> None:
    if result.on_done is None:
        return
    assert callable(result.on_done), f"the completion hook is {result.on_done!r}"
    result.on_done(outcome)

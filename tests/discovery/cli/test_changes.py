"""What `watch` says happened between two states."""

from dataclasses import replace

import pytest

from discovery import Endpoint, ResolverState
from discovery.cli.changes import SIGNS, Kind, changes

A, B = Endpoint("a:1", zone="z"), Endpoint("b:2")
EMPTY = ResolverState(resolved=True)
ONE = ResolverState((A,), resolved=True)
AWAY = replace(ONE, error="UNAVAILABLE")


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (ResolverState(), EMPTY, ["= 0 endpoints"]),
        (ResolverState(), ONE, ["+ a:1  zone=z", "= 1 endpoint"]),
        (ResolverState(), ResolverState(error="no leader"), ["! no leader"]),
        (ONE, ResolverState((A, B), resolved=True), ["+ b:2"]),
        (ONE, EMPTY, ["- a:1  zone=z"]),
        (ONE, replace(ONE, endpoints=(replace(A, zone="y"),)), ["~ a:1  zone=z->y"]),
        (
            ONE,
            replace(ONE, endpoints=(replace(A, draining=True, services=("s.A", "s.B")),)),
            ["~ a:1  services=->s.A,s.B  draining=false->true"],
        ),
        (ONE, ONE, []),
        (ONE, AWAY, ["! UNAVAILABLE"]),
        (AWAY, replace(AWAY, error="no answer within 3 s"), []),
        (AWAY, ONE, ["= 1 endpoint"]),
        (AWAY, EMPTY, ["- a:1  zone=z", "= 0 endpoints"]),
        (ONE, replace(EMPTY, withdrawn=(A,)), ["? a:1  withdrawn  zone=z"]),
        (replace(EMPTY, withdrawn=(A,)), replace(EMPTY, withdrawn=(A,)), []),
        (replace(EMPTY, withdrawn=(A,)), ONE, ["+ a:1  zone=z"]),
        (replace(EMPTY, withdrawn=(A,)), EMPTY, ["- a:1  zone=z"]),
    ],
)
def test_changes_are_described(
    before: ResolverState, after: ResolverState, shown: list[str]
) -> None:
    """One line for each, and for the registry only when it is lost or found."""
    assert shown == [each.described() for each in changes(before, after)]


def test_changes_have_a_form_for_programs() -> None:
    """An endpoint is whole in it, before and after."""
    (changed,) = changes(ONE, replace(ONE, endpoints=(replace(A, weight=2),)))
    public = changed.public()
    assert ("changed", 2, 1) == (
        public["event"],
        public["endpoint"]["weight"],
        public["was"]["weight"],
    )
    (lost,) = changes(ONE, AWAY)
    assert {"event": "lost", "text": "UNAVAILABLE"} == lost.public()


def test_every_kind_has_a_sign_of_its_own() -> None:
    """Nobody has to guess."""
    assert set(Kind) == set(SIGNS)
    assert len(SIGNS) == len(set(SIGNS.values()))

"""What clients ask for: from a seed, and some of everything."""

from __future__ import annotations

import random
from collections import Counter

from tests.chaos.history import Kind
from tests.chaos.money import HOLDERS, draw, funding, other_body


def test_everything_is_asked_for_and_moves_money_between_two_accounts() -> None:
    """Of one currency, never to oneself; a split pays two others."""
    accounts = {holder.account_id: holder.currency for holder in HOLDERS}
    assert len(accounts) >= 8
    kinds: Counter[Kind] = Counter()
    for number in range(500):
        request = draw(random.Random(number), "key", wallet=number % 2 == 0)
        kinds[request.kind] += 1
        payees = [leg.credit for leg in request.legs]
        assert (2 if request.kind is Kind.SPLIT else 1) == len(set(payees))
        for leg in request.legs:
            assert leg.debit not in payees
            assert request.currency == accounts[leg.debit] == accounts[leg.credit]
            assert leg.amount_minor > 0
    assert set(Kind) - {Kind.FUND} == set(kinds)


def test_a_seed_asks_for_one_thing() -> None:
    """Whoever comes after a kill asks for the same under the same key."""
    first, second = (draw(random.Random("seed"), "key", wallet=True) for _ in range(2))
    assert first == second


def test_another_body_has_the_same_key() -> None:
    """And asks for something else."""
    request = funding(HOLDERS[0])
    other = other_body(request)
    assert (request.key, request.kind) == (other.key, other.kind)
    assert request.legs != other.legs

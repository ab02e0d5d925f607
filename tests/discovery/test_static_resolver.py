import pytest

from discovery import Endpoint, MalformedEndpointError, StaticResolver
from discovery.testing import check_resolver


async def test_it_keeps_the_contract() -> None:
    """The shipped check passes."""
    resolver = StaticResolver(["b:2", "a:1"])

    await check_resolver(resolver, "any", expected=[Endpoint("a:1"), Endpoint("b:2")])


async def test_whole_endpoints_are_taken_and_each_address_once() -> None:
    """Of two with one address the last counts."""
    heavy = Endpoint("a:1", weight=5)

    await check_resolver(StaticResolver(["a:1", heavy]), "any", expected=[heavy])


async def test_no_addresses_are_an_answer_too() -> None:
    """Resolved and empty."""
    await check_resolver(StaticResolver([]), "any", expected=[])


def test_nonsense_is_refused() -> None:
    """What is not host:port raises at construction."""
    with pytest.raises(MalformedEndpointError):
        StaticResolver(["nonsense"])

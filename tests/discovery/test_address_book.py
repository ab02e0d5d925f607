from hypothesis import given
from hypothesis import strategies as st

from discovery import Endpoint
from discovery.address_book import AddressBook, Delta, Rank


def test_the_endpoints_are_in_order_of_address() -> None:
    """Whatever the order in which they came."""
    book = AddressBook()
    for address in ("c:3", "a:1", "b:2"):
        book.put(address.encode(), Endpoint(address), Rank(True, 1))

    assert ["a:1", "b:2", "c:3"] == [each.address for each in book.endpoints()]


def test_of_two_keys_with_one_address_the_newest_counts() -> None:
    """The other stands in when it goes, and nothing appeared or vanished."""
    older, newer = Endpoint("a:1", weight=1), Endpoint("a:1", weight=9)
    book = AddressBook()
    book.put(b"n1", newer, Rank(True, 4))
    book.put(b"n2", older, Rank(True, 3))
    assert Delta(appeared=("a:1",)) == book.settle()
    assert book.endpoints() == (newer,)

    book.remove(b"n1", newer)

    assert book.endpoints() == (older,)
    assert Delta() == book.settle()


def test_a_key_under_a_lease_counts_before_one_without() -> None:
    """Whoever writes without a lease cannot shadow a live registration."""
    live, stray = Endpoint("a:1", weight=2), Endpoint("a:1", weight=99)
    book = AddressBook()

    book.put(b"n1", live, Rank(True, 3))
    book.put(b"n2", stray, Rank(False, 8))

    assert book.endpoints() == (live,)


def test_a_key_may_move_to_another_address() -> None:
    """What it named before is gone."""
    book = AddressBook()
    before, after = Endpoint("a:1"), Endpoint("b:2")
    book.put(b"n", before, Rank(True, 1))
    book.settle()

    book.remove(b"n", before)
    book.put(b"n", after, Rank(True, 2))

    assert book.endpoints() == (after,)
    assert Delta(appeared=("b:2",), vanished=(before,)) == book.settle()


_STEPS = st.lists(
    st.tuples(st.sampled_from([b"k1", b"k2", b"k3"]), st.integers(0, 3), st.booleans()),
    max_size=40,
)


@given(_STEPS)
def test_any_history_comes_to_what_the_keys_say(steps: list[tuple[bytes, int, bool]]) -> None:
    """The book equals one built from nothing, and its deltas add up."""
    book, keys = AddressBook(), dict[bytes, tuple[Endpoint, Rank]]()
    present: set[str] = set()
    for revision, (key, port, leased) in enumerate(steps):
        if key in keys:
            book.remove(key, keys.pop(key)[0])
        if port:
            endpoint = Endpoint(f"a:{port}", weight=revision + 1)
            keys[key] = (endpoint, Rank(leased, revision))
            book.put(key, *keys[key])
        delta = book.settle()
        present = present | set(delta.appeared)
        present -= {endpoint.address for endpoint in delta.vanished}

        best: dict[str, tuple[Rank, Endpoint]] = {}
        for endpoint, rank in keys.values():
            best[endpoint.address] = max(
                best.get(endpoint.address, (rank, endpoint)), (rank, endpoint), key=lambda x: x[0]
            )
        assert [best[address][1] for address in sorted(best)] == list(book.endpoints())
        assert present == set(best)

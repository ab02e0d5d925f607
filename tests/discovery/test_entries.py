import pytest

import discovery.entries
from discovery import Endpoint
from discovery.endpoint import encode_key, encode_value
from discovery.entries import ServiceEntries
from discovery.etcd_types import KeyValue, Listing, WatchBatch, WatchEvent

_A, _B = Endpoint("a:1"), Endpoint("b:2")


def _entry(endpoint: Endpoint, revision: int, key: bytes | None = None) -> KeyValue:
    return KeyValue(key or encode_key("svc", endpoint), encode_value(endpoint), revision)


def _put(entry: KeyValue) -> WatchBatch:
    return WatchBatch(entry.mod_revision, (WatchEvent(entry, deleted=False),))


def _delete(key: bytes, revision: int) -> WatchBatch:
    return WatchBatch(revision, (WatchEvent(KeyValue(key, b"", revision), deleted=True),))


def test_a_listing_is_the_whole_truth() -> None:
    """What a new listing does not hold is gone."""
    entries = ServiceEntries("svc")
    entries.replace(Listing(2, (_entry(_A, 2),)))

    entries.replace(Listing(3, (_entry(_B, 3),)))

    assert entries.endpoints() == (_B,)


def test_events_are_folded_in() -> None:
    """Puts add and replace, deletes remove; the order is by address."""
    entries = ServiceEntries("svc")
    entries.replace(Listing(2, (_entry(_B, 2),)))

    entries.apply(_put(_entry(_A, 3)))
    assert entries.endpoints() == (_A, _B)

    entries.apply(_put(_entry(Endpoint("a:1", weight=5), 4)))
    assert (Endpoint("a:1", weight=5), _B) == entries.endpoints()

    entries.apply(_delete(b"svc/b:2", 5))
    assert (Endpoint("a:1", weight=5),) == entries.endpoints()


def test_only_events_move_the_revision() -> None:
    """A sign of life may be ahead of events still under way."""
    entries = ServiceEntries("svc")
    entries.replace(Listing(2, ()))

    entries.apply(WatchBatch(9))

    assert entries.revision == 2


def test_an_event_older_than_the_listing_changes_nothing() -> None:
    """A replayed event does not bring back what was deleted since."""
    entries = ServiceEntries("svc")
    entries.replace(Listing(7, ()))

    entries.apply(_put(_entry(_A, 3)))

    assert entries.endpoints() == ()


def test_of_two_keys_with_one_address_the_newest_counts() -> None:
    """Each address is reported once, as it was written last, and survives one deletion."""
    older, newer = Endpoint("a:1", weight=1), Endpoint("a:1", weight=9)
    entries = ServiceEntries("svc")
    entries.replace(Listing(4, (_entry(newer, 4, b"svc/n1"), _entry(older, 3, b"svc/n2"))))
    assert (newer,) == entries.endpoints()

    entries.apply(_delete(b"svc/n1", 5))
    assert (older,) == entries.endpoints()


def test_a_malformed_entry_is_skipped_and_reported_once() -> None:
    """The next listing does not report it again; a new value is looked at anew."""
    entries = ServiceEntries("svc")
    bad = KeyValue(b"svc/x", b"nonsense", 3)

    assert len(entries.replace(Listing(3, (bad, _entry(_A, 2))))) == 1
    assert entries.replace(Listing(3, (bad, _entry(_A, 2)))) == []
    assert entries.endpoints() == (_A,)

    assert entries.apply(_put(_entry(_B, 4, b"svc/x"))) == []
    assert entries.endpoints() == (_A, _B)


def test_a_good_entry_that_turns_bad_is_gone() -> None:
    """A malformed value replaces the endpoint that stood there."""
    entries = ServiceEntries("svc")
    entries.replace(Listing(2, (_entry(_A, 2),)))

    assert len(entries.apply(_put(KeyValue(b"svc/a:1", b"{}", 3)))) == 1
    assert entries.endpoints() == ()


def test_an_entry_of_a_service_below_is_not_ours() -> None:
    """`svc/inner/a:1` belongs to `svc/inner`."""
    entries = ServiceEntries("svc")

    assert len(entries.replace(Listing(2, (_entry(_A, 2, b"svc/inner/a:1"),)))) == 1
    assert entries.endpoints() == ()


def test_entries_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever is written; those already known can still change."""
    monkeypatch.setattr(discovery.entries, "MAX_ENDPOINTS_PER_SERVICE", 1)
    entries = ServiceEntries("svc")

    assert len(entries.replace(Listing(3, (_entry(_A, 2), _entry(_B, 3))))) == 1
    assert entries.apply(_put(_entry(Endpoint("a:1", weight=2), 4))) == []
    assert (Endpoint("a:1", weight=2),) == entries.endpoints()

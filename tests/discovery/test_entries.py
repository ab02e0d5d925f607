import pytest

import discovery.entries
from discovery import Endpoint, GapError
from discovery.address_book import Delta
from discovery.endpoint import encode_key, encode_value
from discovery.entries import Changes, EntryRules, ServiceEntries
from discovery.etcd_types import Fingerprint, KeyValue, Page, WatchBatch, WatchEvent

_A, _B = Endpoint("a:1"), Endpoint("b:2")
_LEASE = 7


def _entry(
    endpoint: Endpoint,
    revision: int,
    key: bytes | None = None,
    *,
    version: int = 1,
    lease_id: int = _LEASE,
) -> KeyValue:
    key = key or encode_key("svc", endpoint)
    return _raw(key, encode_value(endpoint), revision, version=version, lease_id=lease_id)


def _raw(
    key: bytes, value: bytes, revision: int, *, version: int = 1, lease_id: int = _LEASE
) -> KeyValue:
    return KeyValue(key, value, revision, lease_id, version, revision - version + 1)


def _list(entries: ServiceEntries, revision: int, *listed: KeyValue) -> Changes:
    entries.begin_listing()
    entries.add_page(Page(revision, listed))
    return entries.finish_listing()


def _put(entry: KeyValue) -> WatchBatch:
    return WatchBatch(entry.mod_revision, (WatchEvent(entry, deleted=False),))


def _delete(key: bytes, revision: int) -> WatchBatch:
    return WatchBatch(revision, (WatchEvent(KeyValue(key, b"", revision), deleted=True),))


def test_a_listing_is_the_whole_truth() -> None:
    """What a new listing does not hold is gone, and said to be."""
    entries = ServiceEntries("svc")
    assert Delta(appeared=("a:1",)) == _list(entries, 2, _entry(_A, 2)).delta

    changes = _list(entries, 3, _entry(_B, 3))

    assert entries.endpoints() == (_B,)
    assert Delta(appeared=("b:2",), vanished=(_A,)) == changes.delta


def test_a_listing_counts_only_when_it_is_finished() -> None:
    """Pages of a listing that broke off are forgotten."""
    entries = ServiceEntries("svc")
    _list(entries, 2, _entry(_A, 2))

    entries.begin_listing()
    entries.add_page(Page(3, (_entry(_B, 3),), last=False))
    assert entries.endpoints() == (_A,)
    _list(entries, 4, _entry(_A, 2))

    assert entries.endpoints() == (_A,)


def test_events_are_folded_in() -> None:
    """Puts add and replace, deletes remove; the order is by address."""
    entries = ServiceEntries("svc")
    _list(entries, 2, _entry(_B, 2))

    entries.apply(_put(_entry(_A, 3)))
    assert entries.endpoints() == (_A, _B)

    entries.apply(_put(_entry(Endpoint("a:1", weight=5), 4, version=2)))
    assert (Endpoint("a:1", weight=5), _B) == entries.endpoints()

    entries.apply(_delete(b"svc/b:2", 5))
    assert (Endpoint("a:1", weight=5),) == entries.endpoints()


def test_an_endpoint_vanishes_as_it_last_stood() -> None:
    """That it was draining is known, although nobody was told in between."""
    entries = ServiceEntries("svc")
    _list(entries, 2, _entry(_A, 2))
    draining = Endpoint("a:1", draining=True)
    events = _put(_entry(draining, 3, version=2)).events + _delete(b"svc/a:1", 4).events

    assert Delta(vanished=(draining,)) == entries.apply(WatchBatch(4, events)).delta


def test_only_events_move_the_revision() -> None:
    """A sign of life may be ahead of events still under way."""
    entries = ServiceEntries("svc")
    _list(entries, 2)

    entries.apply(WatchBatch(9))

    assert entries.revision == 2


def test_an_event_older_than_the_listing_changes_nothing() -> None:
    """A replayed event does not bring back what was deleted since."""
    entries = ServiceEntries("svc")
    _list(entries, 7)

    entries.apply(_put(_entry(_A, 3)))

    assert entries.endpoints() == ()


@pytest.mark.parametrize(
    "event",
    [
        _put(_entry(_A, 9, version=4)),
        _put(_entry(_B, 9, version=2)),
        _put(_entry(_A, 9, version=1)),
        _delete(b"svc/b:2", 9),
    ],
    ids=["skipped a put", "unknown and not new", "created again", "deleted and unknown"],
)
def test_an_event_that_follows_one_we_missed_is_a_gap(event: WatchBatch) -> None:
    """The count of a key's puts shows that something was not heard."""
    entries = ServiceEntries("svc")
    _list(entries, 5, _entry(_A, 5, version=2))

    with pytest.raises(GapError):
        entries.apply(event)


def test_a_store_that_holds_what_we_hold_matches() -> None:
    """The count and the newest key tell, and any difference in them."""
    entries = ServiceEntries("svc")
    _list(entries, 5, _entry(_A, 3), _entry(_B, 5, version=2))

    assert entries.matches(Fingerprint(2, _entry(_B, 5, version=2)))
    assert not entries.matches(Fingerprint(1, _entry(_B, 5, version=2)))
    assert not entries.matches(Fingerprint(2, _entry(_B, 5, version=1)))
    assert not entries.matches(Fingerprint(2, _entry(Endpoint("c:3"), 5)))
    assert not entries.matches(Fingerprint(0, None))


def test_a_malformed_entry_is_skipped_and_reported_once() -> None:
    """The next listing does not report it again; a new value is looked at anew."""
    entries = ServiceEntries("svc")
    bad = _raw(b"svc/x", b"nonsense", 3)

    assert len(_list(entries, 3, bad, _entry(_A, 2)).remarks) == 1
    assert _list(entries, 3, bad, _entry(_A, 2)).remarks == ()
    assert entries.endpoints() == (_A,)

    assert entries.apply(_put(_entry(_B, 4, b"svc/x", version=2))).remarks == ()
    assert entries.endpoints() == (_A, _B)


def test_a_good_entry_that_turns_bad_is_gone() -> None:
    """A malformed value replaces the endpoint that stood there."""
    entries = ServiceEntries("svc")
    _list(entries, 2, _entry(_A, 2))

    changes = entries.apply(_put(_raw(b"svc/a:1", b"{}", 3, version=2)))

    assert [remark.skipped for remark in changes.remarks] == [True]
    assert entries.endpoints() == ()


def test_an_entry_of_a_service_below_is_not_ours() -> None:
    """`svc/inner/a:1` belongs to `svc/inner`."""
    entries = ServiceEntries("svc")

    assert len(_list(entries, 2, _entry(_A, 2, b"svc/inner/a:1")).remarks) == 1
    assert entries.endpoints() == ()


@pytest.mark.parametrize(("accepted", "endpoints"), [(True, (_A,)), (False, ())])
def test_an_entry_without_a_lease_is_remarked_on(
    accepted: bool, endpoints: tuple[Endpoint, ...]
) -> None:
    """It is taken or skipped as the rules say, and named in either case."""
    entries = ServiceEntries("svc", EntryRules(accept_leaseless=accepted))

    changes = _list(entries, 2, _entry(_A, 2, lease_id=0))

    assert [remark.skipped for remark in changes.remarks] == [not accepted]
    assert endpoints == entries.endpoints()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "169.254.9.9:1", "[fe80::1]:1"]
)
def test_an_address_of_another_machines_own_is_skipped(address: str) -> None:
    """Read elsewhere, loopback and link-local name whoever reads."""
    entries = ServiceEntries("svc", EntryRules(accept_loopback=False))

    assert len(_list(entries, 2, _entry(Endpoint(address), 2)).remarks) == 1
    assert entries.endpoints() == ()


def test_entries_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever is written; those already known can still change."""
    monkeypatch.setattr(discovery.entries, "MAX_ENDPOINTS_PER_SERVICE", 1)
    entries = ServiceEntries("svc")

    assert len(_list(entries, 3, _entry(_A, 2), _entry(_B, 3)).remarks) == 1
    heavy = Endpoint("a:1", weight=2)
    assert entries.apply(_put(_entry(heavy, 4, version=2))).remarks == ()
    assert entries.endpoints() == (heavy,)
    assert len(entries.apply(_put(_entry(Endpoint("c:3"), 5))).remarks) == 1
    assert entries.endpoints() == (heavy,)


def test_bytes_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few entries of great size are as bounded as many small ones."""
    monkeypatch.setattr(discovery.entries, "MAX_BYTES_PER_SERVICE", 1000)
    entries = ServiceEntries("svc")
    big = _raw(b"svc/x", b"x" * 900, 2)

    changes = _list(entries, 4, big, _entry(_A, 3))

    assert {b"svc/a:1", b"svc/x"} == {remark.key for remark in changes.remarks}
    assert entries.endpoints() == ()

"""What `ls` makes of a listing."""

from discovery import Endpoint, encode_value
from discovery.cli.survey import ServiceSurvey, Survey
from discovery.entries import MAX_ENDPOINTS_PER_SERVICE, EntryRules
from discovery.etcd_types import KeyValue, Page

SERVICE = "tallystick/ledger"
LEASE = 1


def _entry(key: str, value: bytes, *, revision: int = 1) -> KeyValue:
    return KeyValue(key.encode(), value, revision, LEASE)


def _at(address: str, key: str = "", *, revision: int = 1, zone: str = "") -> KeyValue:
    value = encode_value(Endpoint(address, zone=zone))
    return _entry(f"{SERVICE}/{key or address}", value, revision=revision)


def test_pages_are_one_listing() -> None:
    """Services that begin on one page go on on the next."""
    survey = Survey(EntryRules())
    survey.add_page(Page(9, (_at("a:1"), _entry("acme/x/b:1", b"{}")), last=False))
    survey.add_page(Page(9, (_at("b:1"), _entry("no-service", b"{}"))))
    services, nobodys = survey.finish()
    shown = [(each.service, each.endpoints, each.skipped) for each in services]
    assert [("acme/x", 0, 1), (SERVICE, 2, 0)] == shown
    assert [b"no-service"] == [each.key for each in nobodys]


def test_the_newest_of_several_keys_counts() -> None:
    """In whichever order they are listed; the others are named with it."""
    survey = ServiceSurvey(SERVICE, EntryRules())
    keys = [("1", 5, "old"), ("2", 7, "new"), ("3", 6, "older")]
    entries = [_at("a:1", key, revision=revision, zone=zone) for key, revision, zone in keys]
    survey.add_page(Page(9, tuple(entries)))
    (found,), remarks = survey.finish()
    assert ("new", f"{SERVICE}/2") == (found.endpoint.zone, found.entry.key.decode())
    assert [f"{SERVICE}/1", f"{SERVICE}/3"] == [each.key.decode() for each in remarks]


def test_the_rules_are_those_of_a_resolver() -> None:
    """An address that a resolver here would not take is skipped, with the reason."""
    survey = ServiceSurvey(SERVICE, EntryRules(accept_loopback=False))
    survey.add_page(Page(9, (_at("127.0.0.1:1"),)))
    found, (remark,) = survey.finish()
    assert [] == found
    assert "loopback" in remark.reason


def test_a_service_beyond_its_limit_is_shown_up_to_it() -> None:
    """What is beyond it is neither read nor in the way, however bad it is."""
    survey = ServiceSurvey(SERVICE, EntryRules())
    entries = [_entry(f"{SERVICE}/{n}", b"") for n in range(MAX_ENDPOINTS_PER_SERVICE)]
    survey.add_page(Page(9, (_at("a:1"), *entries, _entry(f"{SERVICE}/last", b""))))
    found, remarks = survey.finish()
    assert ["a:1"] == [each.endpoint.address for each in found]
    assert "too many" in remarks[-1].reason

"""The names of prepared transactions: written, read back, and told from those of others."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.txn.helpers import key, operation
from txn.errors import InvalidOperation
from txn.model import Operation
from txn.prepared_name import GID_BYTES_MAX, PreparedName, digest_of, is_schema, name_in, prefix_of

DIGEST = digest_of(operation())
IDS = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=40)
COORDINATORS = st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,20}", fullmatch=True)


@given(txn_id=IDS, branch_id=IDS, coordinator=COORDINATORS)
def test_what_is_written_is_read_back(txn_id: str, branch_id: str, coordinator: str) -> None:
    """Also when the coordinator's name has slashes; no character needs an escape."""
    name = PreparedName("shop", key(txn_id, branch_id), coordinator, DIGEST)
    gid = name.gid()
    assert name == name_in(gid)
    assert gid.startswith(prefix_of("shop", name.key))
    assert not set(gid) & set("'\\%?")


@given(st.text())
def test_what_others_have_written_is_not_taken_for_ours(text: str) -> None:
    """Whatever it is, reading it raises nothing; with our beginning it still needs all the rest."""
    for gid in (text, f"tallystick/{text}", f"tallystick/shop/t/b/c/{text}"):
        found = name_in(gid)
        assert found is None or found.gid() == gid


def test_the_longest_name_is_as_long_as_postgresql_takes() -> None:
    """One more character is refused."""
    short = PreparedName("shop", key("t", "b"), "c", DIGEST).gid()
    room = GID_BYTES_MAX - len(short) + 1
    longest = PreparedName("shop", key("t", "b"), "c" * room, DIGEST)
    assert GID_BYTES_MAX == len(longest.gid().encode())
    with pytest.raises(InvalidOperation, match="longer than"):
        PreparedName("shop", key("t", "b"), "c" * (room + 1), DIGEST).gid()


@pytest.mark.parametrize(
    ("schema", "txn_id", "coordinator"),
    [
        ("a-b", "t", "c"),
        ("shop", "t/u", "c"),
        ("shop", "t'", "c"),
        ("shop", "t", "C"),
        ("shop", "", "c"),
    ],
)
def test_what_would_be_read_as_another_is_refused(
    schema: str, txn_id: str, coordinator: str
) -> None:
    """By the name of the rule."""
    with pytest.raises(InvalidOperation) as caught:
        PreparedName(schema, key(txn_id), coordinator, DIGEST).gid()
    assert ["prepared.gid"] == [each.rule for each in caught.value.violations]


def test_operations_differ_in_their_digests() -> None:
    """By type and by value, wherever the one ends and the other begins."""
    operations = [Operation("a", b"bc"), Operation("ab", b"c"), Operation("", b"abc")]
    assert 3 == len({digest_of(each) for each in operations})


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("shop", True), ("_2", True), ("2", False), ("a b", False), ("a/b", False), ("a" * 64, False)],
)
def test_schemas_that_can_be_named(name: str, is_one: bool) -> None:
    """As PostgreSQL limits them, without what would need quotes within a gid."""
    assert is_schema(name) is is_one

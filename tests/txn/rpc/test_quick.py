"""The quick looks at messages: they say yes only where protovalidate has nothing to say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tallystick.txn.v1 import coordinator_service_pb2 as coordinator_pb
from tallystick.txn.v1 import participant_service_pb2 as pb

from txn.rpc.quick import (
    surely_valid,
    surely_valid_exchange,
    surely_valid_execute,
    surely_valid_execute_stream,
)
from txn.rpc.status import violations_of

# Mostly good, and now and then each way to be bad.
NAMES = st.sampled_from(["a", "b-1", "T.1:x", "n" * 64, "", "n" * 65, "ä", "a b", "a\n"])
SERVICES = st.sampled_from(["coordinator", "a/b", "", "Coordinator", "x" * 129, "a\n"])
KEYS = st.sampled_from(["k", "!~", "k" * 200, "", "k" * 201, "k k", "k\n"])
URLS = st.sampled_from(["x/a", "x/b", ""])


@st.composite
def batches(draw: st.DrawFn) -> pb.ExchangeRequest:
    """Batches whose columns mostly fit each other."""
    verbs = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 0, 9]), max_size=5))
    count = len(verbs) + draw(st.sampled_from([0, 0, 0, 1]))
    prepares = verbs.count(1) + verbs.count(4) + draw(st.sampled_from([0, 0, 0, 1]))
    forgettable = draw(st.integers(0, 2))
    return pb.ExchangeRequest(
        coordinator=draw(SERVICES),
        verbs=verbs,  # type: ignore[arg-type]
        txn_ids=draw(st.lists(NAMES, min_size=count, max_size=count)),
        branch_ids=draw(st.lists(NAMES, min_size=len(verbs), max_size=len(verbs))),
        operation_type_urls=draw(st.lists(URLS, min_size=1, max_size=2)),
        operation_types=draw(
            st.lists(st.sampled_from([0, 0, 1, 2]), min_size=prepares, max_size=prepares)
        ),
        operations=[b"x"] * prepares,
        forgettable_txn_ids=draw(st.lists(NAMES, min_size=forgettable, max_size=forgettable)),
        forgettable_branch_ids=draw(st.lists(NAMES, max_size=2)),
        prepare_horizon=draw(st.sampled_from(["", "h" * 64, "h" * 65, "h h", "h\n"])),
    )


@st.composite
def requests(draw: st.DrawFn) -> coordinator_pb.ExecuteRequest:
    """Requests with some branches."""
    request = coordinator_pb.ExecuteRequest(
        idempotency_key=draw(KEYS),
        wait_for=draw(st.sampled_from([0, 1, 2, 9])),  # type: ignore[arg-type]
    )
    for _ in range(draw(st.sampled_from([0, 1, 2, 2, 17]))):
        branch = request.branches.add(branch_id=draw(NAMES), participant=draw(SERVICES))
        if draw(st.booleans()):
            branch.operation.type_url = "x/a"
    return request


@settings(max_examples=500)
@given(batches())
def test_a_quick_yes_to_a_batch_is_right(batch: pb.ExchangeRequest) -> None:
    """What is taken without asking protovalidate breaks no rule of the proto."""
    if surely_valid_exchange(batch):
        assert [] == violations_of(batch)


@settings(max_examples=500)
@given(requests())
def test_a_quick_yes_to_a_request_is_right(request: coordinator_pb.ExecuteRequest) -> None:
    """The same for a request for a transaction."""
    if surely_valid_execute(request):
        assert [] == violations_of(request)


def test_good_messages_are_recognized() -> None:
    """What the coordinator and its clients send all day is not left to protovalidate."""
    batch = pb.ExchangeRequest(
        batch_id=1,
        coordinator="coordinator",
        verbs=[pb.VERB_PREPARE, pb.VERB_COMMIT, pb.VERB_PERFORM, pb.VERB_RESOLVE],
        txn_ids=["t1", "t2", "t3", "t4"],
        branch_ids=["a", "b", "a", "a"],
        operation_type_urls=["x/a"],
        operation_types=[0, 0],
        operations=[b"x", b"y"],
        forgettable_txn_ids=["t0"],
        forgettable_branch_ids=["a"],
        prepare_horizon="t1",
    )
    assert surely_valid_exchange(batch)
    request = coordinator_pb.ExecuteRequest(idempotency_key="k")
    request.branches.add(branch_id="a", participant="p").operation.type_url = "x/a"
    assert surely_valid_execute(request)
    assert surely_valid_execute_stream(coordinator_pb.ExecuteStreamRequest())
    assert surely_valid(request)
    assert not surely_valid(batch), "of what comes otherwise nothing is said"


def test_no_column_of_a_batch_may_be_longer_than_the_limit() -> None:
    """Also one that the messages do not need."""
    for column in (
        {"verbs": [2] * 1025, "txn_ids": ["t"] * 1025, "branch_ids": ["b"] * 1025},
        {"operation_type_urls": ["x"] * 1025},
        {"forgettable_txn_ids": ["t"] * 1025, "forgettable_branch_ids": ["b"] * 1025},
    ):
        batch = pb.ExchangeRequest(coordinator="c", **column)
        assert not surely_valid_exchange(batch)
        assert violations_of(batch)

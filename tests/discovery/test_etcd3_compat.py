import ast
import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from discovery import Endpoint, EtcdClient, Registrar, decode_value
from discovery.etcd3_compat import etcd3
from tests.discovery.helpers import happens
from tests.support.etcd import EtcdProcess

# etcd3's watcher knows no end: its thread dies of the closed channel, with a traceback.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

_CALL_TIMEOUT_S = 10.0
_LOCK_TTL_S = 10
_SCRIPT_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[2]
_STUBS = ("kv_pb2", "auth_pb2", "rpc_pb2")

_USE = """
import etcd3
assert etcd3.etcdrpc.RangeRequest(key=b"k").key == b"k"
assert etcd3.etcdrpc.kv_pb2.KeyValue(value=b"v").value == b"v"
print("usable")
"""
_FAIL = """
try:
    import etcd3
except TypeError:
    print("refused")
"""
_OTHER_KV = """
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
other = FileDescriptorProto(name="kv.proto", package="mvccpb", syntax="proto3")
other.message_type.add(name="KeyValue").field.add(name="other", number=9, type=9, label=1)
Default().AddSerializedFile(other.SerializeToString())
assert list(Default().FindMessageTypeByName("mvccpb.KeyValue").fields_by_name) == ["other"]
"""
_COMPAT = "import discovery.etcd3_compat\n"
_AGAIN = """
import sys
for name in [each for each in sys.modules if each.partition(".")[0] == "etcd3"]:
    del sys.modules[name]
del sys.modules["discovery.etcd3_compat"]
"""
_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
import discovery
names = ["discovery.etcd3_compat", "etcd3", "etcd3.etcdrpc.rpc_pb2", "etcd3.locks"]
with ThreadPoolExecutor(8) as threads:
    list(threads.map(import_module, ["discovery.etcd3_compat"] * 8))
    list(threads.map(import_module, names * 4))
"""


@pytest.fixture(scope="module")
def store() -> Iterator[EtcdProcess]:
    """One etcd for the tests that use keys of their own."""
    with EtcdProcess() as process:
        yield process


@pytest.fixture
def package(store: EtcdProcess) -> Iterator[Any]:
    """An `etcd3.Etcd3Client` of `store`."""
    client = _connect(store)
    yield client
    _close(client)


@pytest_asyncio.fixture
async def registrar(store: EtcdProcess) -> AsyncIterator[Registrar]:
    """A registrar in `store`."""
    client = EtcdClient([store.endpoint])
    registrar = Registrar(client)
    yield registrar
    await registrar.close()
    await client.close()


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        pytest.param(_COMPAT + _USE, ["usable"], id="before etcd3"),
        pytest.param(_FAIL + _COMPAT + _USE, ["refused", "usable"], id="after etcd3 failed"),
        pytest.param(
            _COMPAT + _USE + _AGAIN + _COMPAT + _USE, ["usable", "usable"], id="loaded twice"
        ),
        pytest.param(_OTHER_KV + _COMPAT + _USE, ["usable"], id="after another kv.proto"),
        pytest.param(_COMPAT + _USE + _OTHER_KV, ["usable"], id="before another kv.proto"),
        pytest.param(_THREADS + _USE, ["usable"], id="in many threads"),
    ],
)
def test_etcd3_is_importable(script: str, printed: list[str]) -> None:
    """Whatever was imported before, `import etcd3` works once the module is imported."""
    assert printed == _run(script).split()


def test_it_runs_on_protobuf_in_python_too() -> None:
    """Nothing reaches the default pool where protobuf has no compiled part either."""
    script = _COMPAT + _USE + _OTHER_KV

    assert ["usable"] == _run(script, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python").split()


def test_the_finder_stands_there_once() -> None:
    """However often the module is loaded."""
    count = "print(sum(type(each).__name__ == '_StubFinder' for each in sys.meta_path))"

    assert "1" == _run(_COMPAT + _AGAIN + _COMPAT + count).strip()


def test_a_missing_etcd3_is_named_with_its_extra() -> None:
    """The import of the module fails with an ImportError that says what to install."""
    script = (
        "import sys; sys.modules['etcd3'] = None\n"
        "try:\n    import discovery.etcd3_compat\n"
        "except ImportError as error: print(error.name, '|', error)"
    )

    assert "etcd3 | etcd3 is not installed: pip install 'tallystick[etcd3]'" == _run(script).strip()


def test_an_etcd3_of_another_form_is_left_alone(tmp_path: Path) -> None:
    """Stubs that import by themselves are imported as they are."""
    stubs = tmp_path / "etcd3" / "etcdrpc"
    stubs.mkdir(parents=True)
    (tmp_path / "etcd3" / "__init__.py").write_text("import etcd3.etcdrpc.kv_pb2\n")
    (stubs / "__init__.py").write_text("")
    (stubs / "kv_pb2.py").write_text("DESCRIPTOR = 'its own'\n")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from discovery.etcd3_compat import etcd3\n"
        "print(etcd3.etcdrpc.kv_pb2.DESCRIPTOR)"
    )

    assert "its own" == _run(script).strip()


@pytest.mark.parametrize("stub", _STUBS)
def test_a_stub_has_the_public_names_of_the_installed_one(stub: str) -> None:
    """Every public name that the package's own stub assigns is there."""
    tree = ast.parse(_installed(stub).read_text())
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    }

    assert assigned
    assert assigned <= set(vars(getattr(etcd3.etcdrpc, stub)))


def test_the_messages_can_be_pickled() -> None:
    """A message's class is found again under the module it names."""
    message: Message = etcd3.etcdrpc.kv_pb2.KeyValue(key=b"k", lease=7)

    assert message == pickle.loads(pickle.dumps(message))


def test_keys_are_put_read_replaced_and_deleted(package: Any) -> None:
    """The calls of every day, alone and by prefix."""
    package.put("keys/a", "1")
    package.put("keys/b", b"2")
    assert b"1" == package.get("keys/a")[0]
    assert [b"2", b"1"] == [v for v, _ in package.get_prefix("keys/", sort_order="descend")]
    assert [True, False] == [package.replace("keys/a", "1", "3") for _ in range(2)]
    assert not package.put_if_not_exists("keys/a", "4")

    assert package.delete("keys/a")
    assert (None, None) == package.get("keys/a")
    assert 1 == package.delete_prefix("keys/").deleted


def test_a_lease_is_granted_renewed_and_revoked(package: Any) -> None:
    """A key stands under it, and goes with it."""
    lease = package.lease(60)
    package.put("leased", "x", lease=lease)

    assert [60] == [reply.TTL for reply in lease.refresh()]
    assert [b"leased"] == list(lease.keys)

    lease.revoke()
    assert (None, None) == package.get("leased")


def test_a_transaction_takes_the_branch_its_comparison_says(package: Any) -> None:
    """With its writes and its reads."""
    package.put("txn", "old")
    operations = package.transactions

    def swap() -> tuple[bool, list[Any]]:
        done, replies = package.transaction(
            compare=[operations.value("txn") == "old", operations.version("txn") > 0],
            success=[operations.put("txn", "new")],
            failure=[operations.get("txn")],
        )
        return done, replies

    assert swap()[0]
    done, [[(value, _)]] = swap()
    assert (False, b"new") == (done, value)


def test_a_watch_tells_of_a_put_and_of_a_delete(package: Any) -> None:
    """As the package's own event classes, in order."""
    events, cancel = package.watch_prefix("watched/")
    package.put("watched/a", "x")
    package.delete("watched/a")

    seen = _within(lambda: [next(events) for _ in range(2)])
    cancel()

    assert [("PutEvent", b"x"), ("DeleteEvent", b"")] == [
        (type(event).__name__, event.value) for event in seen
    ]


def test_a_lock_that_is_held_is_not_acquired(package: Any) -> None:
    """The second who wants it gives up after the time he named."""
    with package.lock("held", ttl=_LOCK_TTL_S) as lock:
        assert lock.is_acquired()
        assert not package.lock("held", ttl=_LOCK_TTL_S).acquire(timeout=0.2)


def test_a_lock_is_acquired_once_it_is_released(store: EtcdProcess, package: Any) -> None:
    """Who waits for it has it when the holder lets go."""
    other = _connect(store)
    lock = package.lock("passed", ttl=_LOCK_TTL_S)
    lock.acquire()
    waiting = other.lock("passed", ttl=_LOCK_TTL_S)
    watching = _on_watch(other, lock.release)

    try:
        assert _within(lambda: waiting.acquire(timeout=_CALL_TIMEOUT_S))
        assert watching.is_set()
        assert waiting.is_acquired()
    finally:
        _close(other)


def test_the_cluster_is_described_and_copied(package: Any) -> None:
    """Status, members and the snapshot's stream."""
    copy = BytesIO()
    package.snapshot(copy)

    assert ["test"] == [member.name for member in package.members]
    assert "test" == package.status().leader.name
    assert copy.getvalue()


async def test_what_a_registrar_wrote_is_read_by_etcd3(package: Any, registrar: Registrar) -> None:
    """The value is an endpoint again, and stands under a lease."""
    endpoint = Endpoint("10.0.0.7:50051", zone="a", weight=3)
    registration = await registrar.register("tallystick/ledger", endpoint)
    await happens(registration.registered)

    value, about = await asyncio.to_thread(package.get, "tallystick/ledger/10.0.0.7:50051")

    assert endpoint == decode_value(value)
    assert about.lease_id


def test_a_token_travels_as_metadata_where_the_channel_is_not_encrypted(etcd: EtcdProcess) -> None:
    """What etcd3 itself sends, call credentials, grpc refuses there; its metadata suffice."""
    etcd.post("/v3/auth/user/add", {"name": "root", "password": "secret"})
    etcd.post("/v3/auth/role/add", {"name": "root"})
    etcd.post("/v3/auth/user/grant", {"user": "root", "role": "root"})
    etcd.post("/v3/auth/enable", {})
    client = _connect(etcd, user="root", password="secret")
    request = etcd3.etcdrpc.PutRequest(key=b"k", value=b"v")

    try:
        with pytest.raises(grpc.RpcError) as refused:
            client.put("k", "v")
        assert grpc.StatusCode.UNAUTHENTICATED == refused.value.code()
        assert client.kvstub.Put(request, client.timeout, metadata=client.metadata).header.revision
    finally:
        _close(client)


def _connect(etcd: EtcdProcess, **options: Any) -> Any:
    """A client whose every call has a deadline."""
    host, _, port = etcd.endpoint.partition(":")
    return etcd3.client(host, int(port), timeout=_CALL_TIMEOUT_S, **options)


def _close(client: Any) -> None:
    """Closes it and waits for its watcher's thread."""
    client.close()
    if (thread := client.watcher._callback_thread) is not None:
        thread.join(_CALL_TIMEOUT_S)
        assert not thread.is_alive()


def _within(call: Callable[[], Any]) -> Any:
    """The result of a call that might never return, in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(2 * _CALL_TIMEOUT_S)


def _on_watch(client: Any, then: Callable[[], object]) -> threading.Event:
    """Calls `then` as soon as the client watches anything, and says so.

    A release between a lock's try and its watch is one that etcd3 does not see.
    """
    done = threading.Event()
    watch = client.watcher.add_callback

    def add(*args: Any, **options: Any) -> Any:
        watch_id = watch(*args, **options)
        then()
        done.set()
        return watch_id

    client.watcher.add_callback = add
    return done


def _installed(stub: str) -> Path:
    """The package's own source of a stub."""
    found = find_spec("etcd3")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "etcdrpc" / f"{stub}.py"


def _run(script: str, **environment: str) -> str:
    """What a fresh interpreter prints; it must succeed."""
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "generated")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=_SCRIPT_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

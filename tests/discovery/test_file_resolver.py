# ruff: noqa: ASYNC240 - the files are tiny, and the tests wait for nothing else meanwhile
from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

import discovery.file_resolver
from discovery import Endpoint, InvalidServiceNameError, ResolverState
from discovery.file_resolver import FileResolver, FileResolverConfig, _look, _Reading
from discovery.testing import check_resolver
from tests.discovery.helpers import Recorder
from tests.support.waiting import eventually

_SERVICE = "tallystick/ledger"
_CONFIG = FileResolverConfig(poll_every_s=0.01)


def _text(*addresses: object) -> str:
    return json.dumps({_SERVICE: addresses})


def _replace(path: Path, content: str | bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(path)


def _open_descriptors() -> int:
    """How many, where the system tells."""
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.exists() else 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that lists a:1 and b:2."""
    path = tmp_path / "endpoints.json"
    path.write_text(_text("a:1", "b:2"))
    return path


@pytest_asyncio.fixture
async def resolver(path: Path) -> AsyncIterator[FileResolver]:
    """A resolver over `path`."""
    resolver = FileResolver(path, config=_CONFIG)
    yield resolver
    await resolver.close()


@pytest.fixture
def listener(resolver: FileResolver) -> Recorder:
    """Somebody who listens to the service."""
    return Recorder()


async def test_it_keeps_the_contract(path: Path, resolver: FileResolver) -> None:
    """The shipped check passes, with a change."""

    async def change() -> list[Endpoint]:
        _replace(path, _text("c:3", "a:1"))
        return [Endpoint("a:1"), Endpoint("c:3")]

    await check_resolver(
        resolver, _SERVICE, expected=[Endpoint("a:1"), Endpoint("b:2")], change=change
    )


async def test_whole_endpoints_are_taken_and_each_address_once(
    path: Path, resolver: FileResolver
) -> None:
    """Every field; of two with one address the last counts."""
    whole = {
        "address": "a:1",
        "id": "a-0",
        "zone": "z",
        "weight": 5,
        "version": "1.2",
        "services": ["tallystick.ledger.v1.LedgerService"],
        "started_at": "2026-01-01T00:00:00Z",
        "draining": True,
    }
    path.write_text(_text("a:1", {"address": "[::1]:2"}, whole))

    await check_resolver(
        resolver,
        _SERVICE,
        expected=[
            Endpoint(
                "a:1",
                id="a-0",
                zone="z",
                weight=5,
                version="1.2",
                services=("tallystick.ledger.v1.LedgerService",),
                started_at="2026-01-01T00:00:00Z",
                draining=True,
            ),
            Endpoint("[::1]:2"),
        ],
    )


async def test_each_service_has_its_own_list(path: Path, resolver: FileResolver) -> None:
    """One that the file does not name has nobody."""
    path.write_text(json.dumps({"x": ["a:1"], "y": ["b:2"]}))

    await check_resolver(resolver, "x", expected=[Endpoint("a:1")])
    await check_resolver(resolver, "y", expected=[Endpoint("b:2")])
    await check_resolver(resolver, "z", expected=[])


async def test_a_file_edited_in_place_is_followed(
    path: Path, resolver: FileResolver, listener: Recorder
) -> None:
    """Every version, though each has the size of the last and comes at once after it.

    What is read while it is half written is malformed and changes nothing.
    """
    resolver.subscribe(_SERVICE, listener)
    for port in range(10, 60):
        path.write_text(_text(f"a:{port}"))
        await listener.hears(f"a:{port}")
    assert listener.smallest == 1


def test_a_change_that_the_clock_of_the_file_system_misses_is_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, inode and times: a new version is read once more before it is settled."""
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda each: os.stat_result((*real(each)[:7], 0, 0, 0)))
    path.write_text(_text("a:1"))
    first = _look(path, _Reading())
    path.write_text(_text("a:2"))

    second = _look(path, first)

    assert second.services == {_SERVICE: (Endpoint("a:2"),)}
    settled = _look(path, second)
    assert _look(path, settled) is settled


async def test_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    """Kubernetes swaps a link that the file's own link goes through."""
    for version, address in (("..v1", "a:1"), ("..v2", "b:2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.json").write_text(_text(address))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "endpoints.json").symlink_to("..data/endpoints.json")
    resolver, listener = FileResolver(tmp_path / "endpoints.json", config=_CONFIG), Recorder()
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1")

    (tmp_path / "..data_tmp").symlink_to("..v2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    await listener.hears("b:2")
    await resolver.close()


_UNUSABLE = {
    "empty": b"",
    "truncated": _text("c:3").encode()[:-2],
    "binary": b"\xff\x00" * 50,
    "nested too deep": b"[" * 200_000,
    "a huge number": b'{"a": [{"address": "a:1", "weight": ' + b"9" * 10_000 + b"}]}",
    "not an object": b"[]",
    "a service without a list": b'{"a": "a:1"}',
    "no service name": b'{"/a/": []}',
    "an endless name": b'{"%s": []}' % (b"a" * 1_000_000),
    "a service twice": b'{"a": ["a:1"], "a": ["b:2"]}',
    "no address": b'{"a": [{"zone": "a"}]}',
    "an address that is none": b'{"a": ["a:1", "nonsense"]}',
    "a number for an address": b'{"a": [1]}',
    "null for an address": b'{"a": [null]}',
    "a mistyped field": b'{"a": [{"address": "a:1", "wieght": 2}]}',
    "an endless field": b'{"a": [{"address": "a:1", "%s": 2}]}' % (b"a" * 1_000_000),
    "a weight of words": b'{"a": [{"address": "a:1", "weight": "2"}]}',
    "a zone of lists": b'{"a": [{"address": "a:1", "zone": []}]}',
    "a service of control characters": b'{"a\\n\\u001b[2J": ["a:1"]}',
    "services of numbers": b'{"a": [{"address": "a:1", "services": [1]}]}',
}


@pytest.mark.parametrize("content", _UNUSABLE.values(), ids=_UNUSABLE)
async def test_the_last_good_list_stands_while_the_file_is_malformed(
    path: Path, resolver: FileResolver, listener: Recorder, content: bytes
) -> None:
    """Whole, with a short error that names the file; a good file is taken again."""
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1", "b:2")

    _replace(path, content)
    await listener.hears_error()

    assert listener.addresses == ["a:1", "b:2"]
    assert listener.last.resolved
    assert listener.last.error is not None
    assert listener.last.error.startswith(str(path))
    assert len(listener.last.error) < 1500
    assert listener.last.error.isprintable()
    _replace(path, _text("c:3"))
    await listener.hears("c:3")


async def test_an_error_says_where(path: Path, resolver: FileResolver, listener: Recorder) -> None:
    """The service and the entry."""
    path.write_text(json.dumps({"x": ["a:1"], _SERVICE: ["a:1", {"address": "0.0.0.0"}]}))
    resolver.subscribe(_SERVICE, listener)
    await listener.hears_error()

    error = f"{path}: {_SERVICE}[1]: address is not host:port: '0.0.0.0'"
    assert error == listener.last.error
    assert not listener.last.resolved


async def test_the_last_good_list_stands_while_the_file_is_missing(
    path: Path, resolver: FileResolver, listener: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The same file back is good again; two log lines for it all."""
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1", "b:2")

    with caplog.at_level(logging.INFO, "discovery"):
        path.rename(path.with_suffix(".away"))
        await listener.hears_error()
        assert listener.addresses == ["a:1", "b:2"]
        path.with_suffix(".away").rename(path)
        await listener.hears("a:1", "b:2")

    assert len(caplog.records) == 2


async def test_a_start_before_the_file_is_legal(tmp_path: Path) -> None:
    """Unresolved, with an error, until it comes."""
    path, listener = tmp_path / "later" / "endpoints.json", Recorder()
    resolver = FileResolver(path, config=_CONFIG)
    resolver.subscribe(_SERVICE, listener)
    await listener.hears_error()
    assert not listener.last.resolved

    path.parent.mkdir()
    _replace(path, _text("a:1"))

    await listener.hears("a:1")
    await resolver.close()


async def test_what_is_no_file_is_an_error_and_costs_no_descriptors(
    path: Path, resolver: FileResolver, listener: Recorder
) -> None:
    """A directory, a pipe nobody writes to, a link that leads nowhere."""
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1", "b:2")
    open_before = _open_descriptors()

    kinds: tuple[Callable[[], object], ...] = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("gone"),
    )
    for make in kinds:
        path.unlink()
        make()
        before = listener.last
        await eventually(partial(_differs, listener, before))
        assert listener.addresses == ["a:1", "b:2"]
        if path.is_dir():
            path.rmdir()
            path.touch()

    # A look may be under way.
    await eventually(lambda: _open_descriptors() <= open_before)


def _differs(listener: Recorder, before: ResolverState) -> bool:
    return listener.last.error is not None and listener.last.error != before.error


async def test_limits(
    path: Path, resolver: FileResolver, listener: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bytes, of services and of endpoints, each with an error that says so."""
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1", "b:2")
    for name, limit in (
        ("MAX_FILE_BYTES", path.stat().st_size),
        ("MAX_SERVICES", 1),
        ("MAX_ENDPOINTS_PER_SERVICE", 2),
    ):
        with monkeypatch.context() as limited:
            limited.setattr(discovery.file_resolver, name, limit)
            _replace(path, json.dumps({_SERVICE: ["a:1", "b:2", "c:3"], "x": []}))
            await eventually(partial(_complains_of, listener, limit))
            assert listener.addresses == ["a:1", "b:2"]
        _replace(path, _text("a:1", "b:2"))
        await listener.hears("a:1", "b:2")


def _complains_of(listener: Recorder, limit: int) -> bool:
    return f" {limit}" in (listener.last.error or "")


async def test_it_looks_only_while_somebody_listens(path: Path, resolver: FileResolver) -> None:
    """Who comes back hears what the file says now, and nothing of before."""
    first = Recorder()
    subscription = resolver.subscribe(_SERVICE, first)
    await first.hears("a:1", "b:2")
    subscription.close()
    assert resolver._following is None

    _replace(path, _text("c:3"))
    second = Recorder()
    resolver.subscribe(_SERVICE, second)

    await second.hears("c:3")
    assert len(second.states) == 1


async def test_the_last_good_list_outlives_its_listeners(
    path: Path, resolver: FileResolver
) -> None:
    """Who comes back while the file is away hears it, with the error."""
    first, second = Recorder(), Recorder()
    subscription = resolver.subscribe(_SERVICE, first)
    await first.hears("a:1", "b:2")
    subscription.close()
    path.unlink()

    resolver.subscribe(_SERVICE, second)

    await second.hears_error()
    assert second.addresses == ["a:1", "b:2"]


async def test_a_name_that_is_none_and_one_too_many_are_refused(
    resolver: FileResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At subscribe."""
    monkeypatch.setattr(discovery.file_resolver, "MAX_SERVICES", 1)
    with pytest.raises(InvalidServiceNameError):
        resolver.subscribe("/nonsense/", Recorder())
    resolver.subscribe("a", Recorder())
    with pytest.raises(ValueError, match="more than 1 services"):
        resolver.subscribe("b", Recorder())


async def test_after_close_nobody_is_told_and_nothing_runs(
    path: Path, resolver: FileResolver, listener: Recorder
) -> None:
    """Closing twice does nothing; a subscription may be closed after it."""
    tasks_before = asyncio.all_tasks()
    subscription = resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1", "b:2")
    await resolver.close()
    await resolver.close()
    subscription.close()
    assert asyncio.all_tasks() <= tasks_before

    with pytest.raises(RuntimeError, match="closed"):
        resolver.subscribe(_SERVICE, listener)


@pytest.mark.parametrize("poll_every_s", [0, -1, float("nan")])
def test_the_interval_is_above_zero(poll_every_s: float) -> None:
    """Anything else is refused at construction."""
    with pytest.raises(ValueError, match="poll_every_s"):
        FileResolverConfig(poll_every_s=poll_every_s)


async def test_ten_thousand_endpoints_are_a_file_like_any(
    path: Path, resolver: FileResolver, listener: Recorder
) -> None:
    """One of them changes, and that is heard."""
    addresses = [f"10.0.{number // 250}.{number % 250}:50051" for number in range(10_000)]
    path.write_text(_text(*addresses))
    resolver.subscribe(_SERVICE, listener)
    await eventually(lambda: len(listener.last.endpoints) == 10_000)

    _replace(path, _text(*addresses, "10.1.0.0:50051"))

    await eventually(lambda: len(listener.last.endpoints) == 10_001)

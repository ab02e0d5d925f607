from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import discovery.cache_file
from discovery import Endpoint, encode_key, encode_value
from discovery.cache_file import CacheFile

_SERVICE = "tallystick/ledger"
_ENTRIES = tuple(
    (encode_key(_SERVICE, each), encode_value(each))
    for each in (Endpoint("10.0.0.7:50051", zone="a"), Endpoint("10.0.0.8:50051"))
)
_OTHERS_ID = 12345


@pytest.fixture
def cache(tmp_path: Path) -> CacheFile:
    """A cache in a directory that does not exist yet."""
    return CacheFile(tmp_path / "a" / "cache")


@pytest.fixture
def saved(cache: CacheFile, tmp_path: Path) -> Path:
    """The file of `cache` after one save."""
    cache.save(_SERVICE, _ENTRIES)
    (path,) = (tmp_path / "a" / "cache").iterdir()
    return path


def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make files of another user and mounts")


def test_what_is_saved_is_loaded_byte_for_byte(cache: CacheFile) -> None:
    """By another object too, as after a restart."""
    every_byte = bytes(range(256))
    entries = (*_ENTRIES, (b"tallystick/ledger/odd", every_byte))

    cache.save(_SERVICE, entries)

    assert entries == cache.load(_SERVICE)


def test_the_last_save_counts(cache: CacheFile) -> None:
    """An empty list is a list."""
    cache.save(_SERVICE, _ENTRIES)
    cache.save(_SERVICE, ())

    assert cache.load(_SERVICE) == ()


def test_nothing_saved_is_none_and_no_news(
    cache: CacheFile, caplog: pytest.LogCaptureFixture
) -> None:
    """A first start has no file, and no directory, and is not worth a line."""
    assert cache.load(_SERVICE) is None
    assert caplog.records == []


def test_only_the_user_may_read_or_write(saved: Path) -> None:
    """0600 in 0700, whatever the umask, and nothing else is left there."""
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert stat.S_IMODE(saved.parent.stat().st_mode) == 0o700
    assert list(saved.parent.iterdir()) == [saved]


def test_the_file_is_for_people_too(saved: Path) -> None:
    """Its name says the service, its text the addresses."""
    assert saved.name.startswith("tallystick-ledger-")
    assert saved.suffix == ".json"
    assert b"10.0.0.7:50051" in saved.read_bytes()


@pytest.mark.parametrize(
    "service",
    ["a", "A", "a/b", "a-b", "../../etc/passwd", "..", "", "x" * 5000, "\0", "\ud800", "日本"],
)
def test_any_service_name_has_a_file_of_its_own(
    cache: CacheFile, tmp_path: Path, service: str
) -> None:
    """Within the directory, and not that of a name that looks like it."""
    cache.save("a_b", ())

    cache.save(service, _ENTRIES)

    assert cache.load(service) == _ENTRIES
    assert cache.load("a_b") == ()
    names = [path.name.lower() for path in (tmp_path / "a" / "cache").iterdir()]
    assert len(set(names)) == 2


def _damage(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    whole = json.loads(path.read_bytes())
    change(whole)
    path.write_text(json.dumps(whole))


def _open_descriptors() -> int:
    """How many, where the system tells."""
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.exists() else 0


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "binary": lambda path: path.write_bytes(b"\x00\xff" * 100),
    "nested too deep": lambda path: path.write_bytes(b"[" * 200_000),
    "not an object": lambda path: path.write_bytes(b"[]"),
    "another version": lambda path: _damage(path, lambda whole: whole.update(version=2)),
    "no version": lambda path: _damage(path, lambda whole: whole.pop("version")),
    "another service": lambda path: _damage(path, lambda whole: whole.update(service="b")),
    "no entries": lambda path: _damage(path, lambda whole: whole.pop("entries")),
    "entries no list": lambda path: _damage(path, lambda whole: whole.update(entries=7)),
    "an entry of three": lambda path: _damage(
        path, lambda whole: whole.update(entries=[["a", "b", "c"]])
    ),
    "entries no pairs": lambda path: _damage(path, lambda whole: whole.update(entries={"ab": "c"})),
    "an entry that is a word": lambda path: _damage(
        path, lambda whole: whole.update(entries=["ab"])
    ),
    "an entry of numbers": lambda path: _damage(path, lambda whole: whole.update(entries=[[1, 2]])),
    "an entry that is no bytes": lambda path: _damage(
        path, lambda whole: whole.update(entries=[["a", "\u4e00"]])
    ),
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
    "in a directory writable by all": lambda path: path.parent.chmod(0o707),
    "a link": lambda path: path.symlink_to(path.rename(path.with_suffix(".real"))),
    "a pipe": _make_pipe,
    "a directory": _make_directory,
}


@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES)
def test_a_file_that_cannot_be_trusted_is_ignored_with_one_line(
    cache: CacheFile,
    saved: Path,
    damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Damaged, foreign, or such that somebody else could have written it."""
    damage(saved)
    open_before = _open_descriptors()

    assert cache.load(_SERVICE) is None
    assert open_before == _open_descriptors()
    assert [str(saved) in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("whose", ["file", "directory"])
def test_what_belongs_to_another_user_is_ignored(cache: CacheFile, saved: Path, whose: str) -> None:
    """Even when nobody else may write it now."""
    _as_root()
    os.chown(saved if whose == "file" else saved.parent, _OTHERS_ID, _OTHERS_ID)

    assert cache.load(_SERVICE) is None


def test_a_directory_like_tmp_will_do(cache: CacheFile, saved: Path) -> None:
    """Where others may add files but not touch ours."""
    saved.parent.chmod(0o1777)

    assert _ENTRIES == cache.load(_SERVICE)


def test_a_readable_file_will_do(cache: CacheFile, saved: Path) -> None:
    """Reading it harms nobody."""
    saved.chmod(0o644)

    assert _ENTRIES == cache.load(_SERVICE)


def test_a_damaged_file_is_replaced_by_the_next_save(cache: CacheFile, saved: Path) -> None:
    """Also when it was writable by all; the new one is not."""
    saved.write_bytes(b"rubbish")
    saved.chmod(0o666)

    cache.save(_SERVICE, _ENTRIES)

    assert _ENTRIES == cache.load(_SERVICE)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_too_much_is_neither_read_nor_written(
    cache: CacheFile,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A save beyond the limit leaves the file as it was."""
    size_bytes = saved.stat().st_size
    monkeypatch.setattr(discovery.cache_file, "MAX_CACHE_FILE_BYTES", size_bytes)
    cache.save(_SERVICE, (*_ENTRIES, (b"k", b"")))
    cache.save(_SERVICE, (*_ENTRIES, (b"k", b"v" * size_bytes)))
    assert _ENTRIES == cache.load(_SERVICE)

    monkeypatch.setattr(discovery.cache_file, "MAX_CACHE_FILE_BYTES", size_bytes - 1)
    assert cache.load(_SERVICE) is None
    assert len(caplog.records) == 2


def test_a_directory_that_cannot_be_made_is_logged_once_and_again_after_a_success(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands in its place; each service has its line."""
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("")
    cache = CacheFile(in_the_way)

    for service in ("a", "a", "b"):
        cache.save(service, _ENTRIES)
    assert len(caplog.records) == 2

    in_the_way.unlink()
    cache.save("a", _ENTRIES)
    assert len(caplog.records) == 2

    in_the_way.rename(tmp_path / "away")
    in_the_way.write_text("")
    cache.save("a", _ENTRIES)
    assert len(caplog.records) == 3


def test_complaints_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With more services than that there is enough in the log."""
    monkeypatch.setattr(discovery.cache_file, "MAX_COMPLAINTS", 2)
    (tmp_path / "cache").write_text("")
    cache = CacheFile(tmp_path / "cache")

    for service in ("a", "b", "c", "d"):
        cache.save(service, _ENTRIES)

    assert len(caplog.records) == 2


def test_what_a_dead_writer_left_is_swept(cache: CacheFile, saved: Path) -> None:
    """Our old temporary files go; one that may be under way stays, and so do others'."""
    old, new = saved.with_name("old.tallystick-tmp"), saved.with_name("new.tallystick-tmp")
    foreign = saved.with_name("foreign.tmp")
    for path in (old, new, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))

    CacheFile(saved.parent).save(_SERVICE, _ENTRIES)

    assert {saved, new, foreign} == set(saved.parent.iterdir())


def test_writers_and_readers_at_once_never_see_half_a_file(cache: CacheFile) -> None:
    """Every load finds one of the whole lists."""
    versions = [tuple((b"k%d" % n, b"v" * 20_000) for n in range(count)) for count in range(1, 6)]
    cache.save(_SERVICE, versions[0])

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            saves = [pool.submit(cache.save, _SERVICE, each) for each in versions]
            loads = [pool.submit(cache.load, _SERVICE) for _ in versions]
            assert all(load.result() in versions for load in loads)
            assert [None] * len(saves) == [save.result() for save in saves]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    _as_root()
    mount_point = tmp_path / "tiny"
    mount_point.mkdir(mode=0o700)
    options = "size=64k,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount_point)],
        capture_output=True,
        text=True,
        timeout=10,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True, timeout=10)


def test_a_full_disk_keeps_what_was_there_and_leaves_nothing(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged once, never raised; the temporary file is gone and the next save works."""
    cache = CacheFile(tiny_disk)
    cache.save(_SERVICE, _ENTRIES)
    (path,) = tiny_disk.iterdir()

    for _ in range(3):
        cache.save(_SERVICE, [(b"k", b"v" * 200_000)])

    assert _ENTRIES == cache.load(_SERVICE)
    assert [path] == list(tiny_disk.iterdir())
    assert ["No space left on device" in line for line in caplog.messages] == [True]
    cache.save(_SERVICE, _ENTRIES[:1])
    assert _ENTRIES[:1] == cache.load(_SERVICE)


def test_a_read_only_disk_is_read_and_not_written(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged once, never raised."""
    cache = CacheFile(tiny_disk)
    cache.save(_SERVICE, _ENTRIES)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True, timeout=10)

    for _ in range(3):
        cache.save(_SERVICE, ())

    assert _ENTRIES == cache.load(_SERVICE)
    assert ["Read-only file system" in line for line in caplog.messages] == [True]


def test_a_writer_that_is_killed_leaves_the_former_file(saved: Path) -> None:
    """Killed between writing and renaming: the old list stands, whole."""
    program = f"""
import os, signal
from pathlib import Path
from discovery.cache_file import CacheFile
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
CacheFile(Path({str(saved.parent)!r})).save({_SERVICE!r}, [(b"k", b"v")])
"""
    killed = subprocess.run([sys.executable, "-c", program], timeout=30)

    assert killed.returncode == -9
    assert _ENTRIES == CacheFile(saved.parent).load(_SERVICE)

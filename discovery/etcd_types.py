"""What etcd says, in our own words: no protobuf type leaves `discovery.etcd_client`.

Errors, one class per meaning, so that callers can act on it:

    EtcdError
      UnavailableError          nobody answered in time, or no leader: try again
      LeaseNotFoundError        the lease is gone: grant another, put again
      CompactedError            the revision is gone: list again
      StoreRolledBackError      the store has not reached the revision: it lost data, list again
      GapError                  events were missed, or are not those of our store: list again
      ResourceExhaustedError    the message or the store is too big, or too many requests
      UnauthenticatedError      no credentials, wrong ones, or a token that has ended
      PermissionDeniedError     this user may not touch this key
      RejectedError             anything else etcd refused; trying again would not help
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_KEPT_VALUE_BYTES: Final = 64 * 1024


class EtcdError(Exception):
    """etcd did not do what it was asked."""


class UnavailableError(EtcdError):
    """No answer in time, no connection, or no leader."""


class LeaseNotFoundError(EtcdError):
    """The lease has expired or was revoked."""


class CompactedError(EtcdError):
    """The revision asked for was compacted; 0 when etcd did not say up to where."""

    def __init__(self, message: str, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class StoreRolledBackError(EtcdError):
    """The store is behind a revision it once had: its data was lost."""


class GapError(EtcdError):
    """What a watch said does not follow from what was known."""


class ResourceExhaustedError(EtcdError):
    """A message over its limit, a full store, or too many requests."""


class UnauthenticatedError(EtcdError):
    """etcd does not know who asks."""


class PermissionDeniedError(EtcdError):
    """etcd knows who asks, and refuses."""


class RejectedError(EtcdError):
    """etcd understood and refused."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as of one revision. `lease_id` is 0 when the key has no lease.

    `version` counts the puts since the key was created at `create_revision`, from 1. A
    value longer than MAX_KEPT_VALUE_BYTES is cut there: nobody can use it, and nobody
    shall fill our memory with it.
    """

    key: bytes
    value: bytes
    mod_revision: int
    lease_id: int = 0
    version: int = 0
    create_revision: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys of a range as of `revision`, in key order; `last` ends the listing."""

    revision: int
    entries: tuple[KeyValue, ...]
    last: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a range as of `revision`, in key order."""

    revision: int
    entries: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells whether a range is, at one revision, still what it was.

    `count` is the number of its keys and `newest` the one put last.
    """

    count: int
    newest: KeyValue | None


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. etcd may grant more than was asked for."""

    lease_id: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A put, or a delete, which carries no value. `entry.mod_revision` orders events."""

    entry: KeyValue
    deleted: bool


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events that belong together, already joined from etcd's fragments.

    Without events it is a sign of life: `revision` is then the store's own, which may
    be ahead of events still under way, so nobody may resume from it.
    """

    revision: int
    events: tuple[WatchEvent, ...] = ()

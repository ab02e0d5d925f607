"""The intervals and rules of an EtcdResolver, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_SETTINGS = ("cache_dir", "accept_loopback", "accept_leaseless")


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdResolverConfig:
    """Intervals and rules of an EtcdResolver; raises ValueError for an interval of nothing.

    A full list is made every `relist_every_s`, less up to a tenth so that a fleet does
    not list in step. A watch silent for `probe_after_s` is probed and given up
    `probe_timeout_s` later. A watch that lasted `healthy_after_s` is replaced at once
    when it ends, a shorter one after a backoff. Listeners of a service of a thousand
    endpoints or more hear at most one state in `report_every_s`, of smaller ones more:
    when ten thousand endpoints come, not ten thousand lists.

    When more than half of the endpoints seen in the last `removal_window_s`, and at least
    two, vanish undrained, or the last one there is, they are withdrawn for
    `removal_grace_s` before they are gone.

    With a `cache_dir` the last known entries are kept there, at most every
    `cache_every_s`, for a start while etcd is down.

    Loopback and link-local addresses are taken with `accept_loopback`; None means when
    etcd itself is reached over loopback, and so is this machine's own. Entries without
    a lease, which nobody removes when their process ends, are taken with
    `accept_leaseless`.
    """

    relist_every_s: float = 300.0
    probe_after_s: float = 5.0
    probe_timeout_s: float = 3.0
    healthy_after_s: float = 5.0
    report_every_s: float = 0.02
    removal_window_s: float = 10.0
    removal_grace_s: float = 60.0
    cache_dir: Path | None = None
    cache_every_s: float = 5.0
    accept_loopback: bool | None = None
    accept_leaseless: bool = True

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if name not in _SETTINGS and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")

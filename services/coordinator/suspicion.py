"""When a coordinator takes over from another one. Pure.

That its lease has run out is a hint and its silence another; who then still lives is fenced
by the log, and starts anew. So being wrong costs a restart, and this may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from txn.decision_log import Standing
from txn.model import Epoch


class Suspicion:
    """Is told what is known of the others, and says whom to ask and from whom to take over."""

    def __init__(self, *, grace_s: float, silences: int) -> None:
        """Who has begun has `grace_s` to register; `silences` in a row are enough."""
        self._grace_s = grace_s
        self._silences = silences
        self._first_seen_s: dict[Epoch, float] = {}
        # Of each address, who is registered there: when it was started, and its epoch.
        self._owners: dict[str, tuple[str, Epoch]] = {}
        # Those that have registered: they have no time any more.
        self._known: set[Epoch] = set()
        self._silent: dict[Epoch, int] = {}

    def suspects(
        self, now_s: float, others: Iterable[Standing], registered: Mapping[str, str] | None
    ) -> list[Standing]:
        """Whom to ask now: who is not registered and has had the time to be.

        `registered` are addresses and when who is there was started, None while the registry
        does not answer: then nobody is suspected, and nobody is any nearer to it afterwards.
        `others` are at least as new: an epoch begins before it is registered.
        """
        standing = {other.epoch: other for other in others}
        self._first_seen_s = {epoch: self._first_seen_s.get(epoch, now_s) for epoch in standing}
        if registered is not None:
            self._note(standing, registered)
        found = [
            other
            for epoch, other in standing.items()
            if registered is not None
            and other.instance not in registered
            and (epoch in self._known or now_s - self._first_seen_s[epoch] >= self._grace_s)
        ]
        self._silent = {other.epoch: self._silent.get(other.epoch, 0) for other in found}
        return found

    def _note(self, standing: Mapping[Epoch, Standing], registered: Mapping[str, str]) -> None:
        """Who has registered; a lease that was there before an epoch is its predecessor's."""
        owners: dict[str, tuple[str, Epoch]] = {}
        for epoch, other in standing.items():
            started_at = registered.get(other.instance)
            if started_at is None:
                continue
            before = self._owners.get(other.instance)
            same = before is not None and before[0] == started_at
            owners[other.instance] = before if same and before else (started_at, epoch)
        self._owners = owners
        self._known &= standing.keys()
        self._known |= {epoch for _, epoch in owners.values()} & standing.keys()

    def heard(self, suspect: Standing, *, answers: bool) -> bool:
        """Whether to take over from it, now that it was asked."""
        epoch = suspect.epoch
        self._silent[epoch] = 0 if answers else self._silent.get(epoch, 0) + 1
        return self._silent[epoch] >= self._silences

    @property
    def any_silent(self) -> bool:
        """Whether somebody should be asked again soon."""
        return any(self._silent.values())

"""A real etcd cluster for tests: three members, each of which can die or freeze alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from tests.support.etcd import EtcdOptions, EtcdProcess

MEMBERS: Final = 3
ELECTION_TIMEOUT_S: Final = 10.0
_POLL_EVERY_S = 0.02
_START_TRIES = 5
# Short, but long enough for three busy processes on two cores not to elect in vain.
_OPTIONS = EtcdOptions(heartbeat_ms=50, election_ms=500)


class EtcdCluster:
    """`members` are EtcdProcess: killed, frozen, restarted and asked one by one.

    A context manager; not started by the constructor.
    """

    def __init__(self, options: EtcdOptions | None = None) -> None:
        self.members = tuple(
            EtcdProcess(options or _OPTIONS, name=f"member{number}") for number in range(MEMBERS)
        )

    @property
    def endpoints(self) -> list[str]:
        """`host:port` of every member."""
        return [member.endpoint for member in self.members]

    def start(self) -> Self:
        """Starts all and waits until each has a leader and answers."""
        for _ in range(_START_TRIES):
            self._introduce()
            if self.launch(self.members):
                return self
            # Somebody took a port between its choice and its use.
            for member in self.members:
                member.stop()
                member.wipe()
                member.choose_ports()
        raise RuntimeError(f"the cluster did not start:\n{self.members[0].log[-2000:]}")

    def launch(self, members: Iterable[EtcdProcess]) -> bool:
        """Starts `members` together, as members that need each other must be."""
        launched = tuple(members)
        for member in launched:
            member.launch()
        ready = [member.wait_ready() for member in launched]
        return all(ready)

    def leader(self) -> EtcdProcess:
        """The member that leads; waits for an election that is under way."""
        deadline = time.monotonic() + ELECTION_TIMEOUT_S
        while time.monotonic() < deadline:
            for member in self.members:
                if member.awake and _leads(member):
                    return member
            time.sleep(_POLL_EVERY_S)
        raise RuntimeError("the cluster has no leader")

    def followers(self) -> list[EtcdProcess]:
        """The members that do not lead."""
        return self.others(self.leader())

    def others(self, *members: EtcdProcess) -> list[EtcdProcess]:
        """All but `members`."""
        return [member for member in self.members if member not in members]

    def close(self) -> None:
        """Ends all and removes what they wrote. May be called again."""
        for member in self.members:
            member.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _introduce(self) -> None:
        everybody = ",".join(member.peer for member in self.members)
        for member in self.members:
            member.cluster = everybody


def _leads(member: EtcdProcess) -> bool:
    try:
        return member.leads()
    except (OSError, RuntimeError):
        return False

"""What happened between two states of a service. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from discovery.endpoint import Endpoint
from discovery.resolver import ResolverState


class Kind(Enum):
    """What happened: its name in JSON; SIGNS has the sign it is shown with."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    # Gone with most of the others: a client that reaches it goes on using it for a while.
    WITHDRAWN = "withdrawn"
    # The registry cannot be reached; what is known stands.
    LOST = "lost"
    # All that the registry has is now shown.
    CURRENT = "current"


SIGNS = {
    Kind.ADDED: "+",
    Kind.REMOVED: "-",
    Kind.CHANGED: "~",
    Kind.WITHDRAWN: "?",
    Kind.LOST: "!",
    Kind.CURRENT: "=",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened.

    `was` is the endpoint before it changed; `text` says why the registry is lost, or how
    many endpoints there are.
    """

    kind: Kind
    endpoint: Endpoint | None = None
    was: Endpoint | None = None
    text: str = ""

    def described(self) -> str:
        """On one line, without the time."""
        return f"{SIGNS[self.kind]} {self._what()}"

    def public(self) -> dict[str, Any]:
        """The same for JSON."""
        fields: dict[str, Any] = {"event": self.kind.value}
        if self.endpoint is not None:
            fields["endpoint"] = asdict(self.endpoint)
        if self.was is not None:
            fields["was"] = asdict(self.was)
        if self.text:
            fields["text"] = self.text
        return fields

    def _what(self) -> str:
        if self.endpoint is None:
            return self.text
        if self.was is not None:
            return f"{self.endpoint.address}  {_difference(self.was, self.endpoint)}"
        noted = "  withdrawn" if self.kind is Kind.WITHDRAWN else ""
        return f"{self.endpoint.address}{noted}{_peculiarities(self.endpoint)}"


def changes(before: ResolverState, after: ResolverState) -> list[Change]:
    """What leads from one to the other: what happened to endpoints, by address, first."""
    happened = []
    was, now = _places(before), _places(after)
    for address in sorted(was.keys() | now.keys()):
        change = _change(was.get(address), now.get(address))
        if change is not None:
            happened.append(change)
    return happened + _registry(before, after)


@dataclass(frozen=True, slots=True)
class _Place:
    endpoint: Endpoint
    withdrawn: bool


def _places(state: ResolverState) -> dict[str, _Place]:
    places = {each.address: _Place(each, withdrawn=True) for each in state.withdrawn}
    places |= {each.address: _Place(each, withdrawn=False) for each in state.endpoints}
    return places


def _change(was: _Place | None, now: _Place | None) -> Change | None:
    if was == now:
        return None
    if now is None:
        assert was is not None, "an address is in one of the two"
        return Change(Kind.REMOVED, was.endpoint)
    if now.withdrawn:
        return None if was and was.withdrawn else Change(Kind.WITHDRAWN, now.endpoint)
    if was is None or was.withdrawn:
        return Change(Kind.ADDED, now.endpoint)
    return Change(Kind.CHANGED, now.endpoint, was.endpoint)


def _registry(before: ResolverState, after: ResolverState) -> list[Change]:
    """Once for each time it is lost or found: what fails may fail in another way each time."""
    if after.error is not None:
        return [] if before.error is not None else [Change(Kind.LOST, text=after.error)]
    if after.resolved and (not before.resolved or before.error is not None):
        count = len(after.endpoints)
        return [Change(Kind.CURRENT, text=f"{count} endpoint{'' if count == 1 else 's'}")]
    return []


def _peculiarities(endpoint: Endpoint) -> str:
    """What of an endpoint differs from one that is only an address."""
    plain = asdict(Endpoint(endpoint.address))
    fields = {name: value for name, value in asdict(endpoint).items() if value != plain[name]}
    return "".join(f"  {name}={_text(value)}" for name, value in fields.items())


def _difference(was: Endpoint, now: Endpoint) -> str:
    former = asdict(was)
    changed = {name: value for name, value in asdict(now).items() if value != former[name]}
    return "  ".join(
        f"{name}={_text(former[name])}->{_text(value)}" for name, value in changed.items()
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)

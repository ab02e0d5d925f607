"""The seam between the machinery of calls and the rule that chooses an endpoint.

The cut is grpc-go's: a `Policy` builds a `Picker` from the subchannels that can take
calls now, off the call path, whenever they change; a `Picker` is an immutable snapshot
that answers for one call at a time. `pick` runs on every call, so it never blocks,
locks or awaits; what it has to remember between calls is a counter at most.

A policy of your own is one class and one line:

    class First:
        def build(self, subchannels):
            return FirstPicker(subchannels[0])

    register_policy("first", lambda context: First())
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import grpc
import grpc.aio

from balancer.errors import PolicyNameTakenError, UnknownPolicyError
from discovery.endpoint import Endpoint

MetadataType: TypeAlias = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]

CompletionHook: TypeAlias = Callable[[grpc.StatusCode | None], None]
"""Told once how a picked call ended; None if it was never started. It must not raise."""


class Subchannel(Protocol):
    """What a policy may know of a connection."""

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint as last resolved.

        Read it while building, not while picking: a change of it brings a new picker.
        """

    @property
    def in_flight(self) -> int:
        """Calls of this channel that have started there and not ended, at this moment."""


class PickInfo(NamedTuple):
    """The call that wants a subchannel.

    `method` is the full path, "/package.Service/Method". `metadata` is what the caller
    sent, in the form it was given. `request` is the message, before serialization; None
    when requests are streamed.
    """

    method: str
    metadata: MetadataType
    request: object | None


class PickResult(NamedTuple):
    """Where the call goes, and who wants to know how it ended."""

    subchannel: Subchannel
    on_done: CompletionHook | None = None


class Picker(Protocol):
    """An immutable snapshot of the subchannels that can take calls."""

    def pick(self, info: PickInfo) -> PickResult:
        """Chooses one of the subchannels the picker was built from."""


class Policy(Protocol):
    """A rule that spreads calls. One instance serves one channel."""

    def build(self, subchannels: Sequence[Subchannel]) -> Picker:
        """A picker over `subchannels`: at least one, ordered by address, each READY."""


HashKey: TypeAlias = Callable[[PickInfo], bytes | None]
"""What of a call decides where it goes; None or nothing when the call does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """What a policy may need besides subchannels.

    `rng` is the channel's randomness; `clock` a monotonic clock, in seconds. `hash_key` is
    None where the channel has none configured.
    """

    rng: random.Random
    clock: Callable[[], float] = time.monotonic
    hash_key: HashKey | None = None


PolicyFactory: TypeAlias = Callable[[PolicyContext], Policy]

_factories: dict[str, PolicyFactory] = {}


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Makes `factory` known as `name`.

    Registering the same factory again does nothing. Raises PolicyNameTakenError.
    """
    if _factories.setdefault(name, factory) is not factory:
        raise PolicyNameTakenError(f"a policy named {name!r} is registered already")


def policy_named(name: str, context: PolicyContext) -> Policy:
    """A new policy of that name.

    Raises UnknownPolicyError, which lists the names that are known.
    """
    factory = _factories.get(name)
    if factory is None:
        known = ", ".join(sorted(_factories))
        raise UnknownPolicyError(f"no balancing policy named {name!r}; known are: {known}")
    return factory(context)

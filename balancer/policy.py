"""The seam between the machinery of calls and the rule that chooses an endpoint.

The cut is grpc-go's: a `Policy` builds a `Picker` from the subchannels that can take
calls now, off the call path, whenever they change; a `Picker` is an immutable snapshot
that answers for one call at a time. `pick` runs on every call, so it never blocks,
locks or awaits; what it has to remember between calls is a counter at most.

A policy of your own is one class and one line:

    class First:
        def build(self, subchannels):
            return FirstPicker(subchannels[0])

    register_policy("first", lambda rng: First())
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
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


PolicyFactory: TypeAlias = Callable[[random.Random], Policy]

_factories: dict[str, PolicyFactory] = {}


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Makes `factory` known as `name`; it is given the channel's source of randomness.

    Registering the same factory again does nothing. Raises PolicyNameTakenError.
    """
    if _factories.setdefault(name, factory) is not factory:
        raise PolicyNameTakenError(f"a policy named {name!r} is registered already")


def policy_named(name: str, rng: random.Random) -> Policy:
    """A new policy of that name.

    Raises UnknownPolicyError, which lists the names that are known.
    """
    factory = _factories.get(name)
    if factory is None:
        known = ", ".join(sorted(_factories))
        raise UnknownPolicyError(f"no balancing policy named {name!r}; known are: {known}")
    return factory(rng)

"""What can be wrong with how a channel is set up; each is raised before any call.

    BalancerError (a ValueError)
      InvalidConfigError      a limit of ChannelConfig that cannot be
      MissingResolverError    the target names a service and nobody can resolve it
      UnknownPolicyError      no policy is registered under that name
      PolicyNameTakenError    another policy is registered under that name

Calls fail as they do on any gRPC channel: with grpc.aio.AioRpcError.
"""

from __future__ import annotations

from typing import Final

SHOWN_CHARS_MAX: Final = 200


class BalancerError(ValueError):
    """The channel cannot be set up as asked."""


class InvalidConfigError(BalancerError):
    """A limit that cannot be."""


class MissingResolverError(BalancerError):
    """The target names a service of a registry and no resolver was given."""


class UnknownPolicyError(BalancerError):
    """No policy is registered under that name."""


class PolicyNameTakenError(BalancerError):
    """Another policy is registered under that name."""


def shown(value: object) -> str:
    """What somebody else wrote, as an error quotes it: on one line, and not without end."""
    return repr(value)[:SHOWN_CHARS_MAX]

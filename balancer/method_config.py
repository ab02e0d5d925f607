"""What holds for the calls of one method, one service, or all.

The words and the precedence are those of gRPC's service config (grpc/doc/service_config.md):
the most specific entry that names a method applies, alone and whole; entries are not merged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from balancer.errors import InvalidConfigError, shown
from balancer.hedging import HedgingPolicy
from balancer.retry import RetryPolicy

MAX_METHOD_NAMES: Final = 10_000

_DEFAULT_RETRY: Final = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """How calls of a method are made.

    `timeout_s` is the longest a call may take; a caller may ask for less. `wait_for_ready`
    is what a caller who says nothing means; None leaves it to the channel.
    `idempotent` declares that running it twice does what running it once does; it lets
    `retry` repeat attempts that a server may have begun, and is required for `hedging`,
    which takes the place of `retry`.
    `max_request_bytes` and `max_response_bytes` bound one serialized message; the next
    larger one ends its call with RESOURCE_EXHAUSTED.

    Raises InvalidConfigError.
    """

    timeout_s: float | None = None
    wait_for_ready: bool | None = None
    idempotent: bool = False
    retry: RetryPolicy = _DEFAULT_RETRY
    hedging: HedgingPolicy | None = None
    max_request_bytes: int | None = None
    max_response_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.timeout_s is not None and not 0 < self.timeout_s < math.inf:
            raise InvalidConfigError(f"timeout_s is not above 0: {self.timeout_s}")
        for name in ("max_request_bytes", "max_response_bytes"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise InvalidConfigError(f"{name} is below 0: {limit}")
        if self.hedging is None:
            return
        if not self.idempotent:
            raise InvalidConfigError("hedging is for methods declared idempotent")
        if self.retry != _DEFAULT_RETRY:
            raise InvalidConfigError("retry and hedging exclude each other")

    @property
    def is_repeatable(self) -> bool:
        """Whether there is ever a second attempt."""
        return self.hedging is not None or self.retry.max_attempts > 1

    def timeout_for(self, asked_s: float | None) -> float | None:
        """The timeout of a call whose caller asks for `asked_s`: the shorter of both."""
        if asked_s is None or self.timeout_s is None:
            return self.timeout_s if asked_s is None else asked_s
        return min(asked_s, self.timeout_s)


DEFAULT_METHOD: Final = MethodConfig()


@dataclass(frozen=True, slots=True)
class MethodConfigs:
    """Entries by name: "/pkg.Service/Method", "pkg.Service", or "" for every method.

    Raises InvalidConfigError.
    """

    by_name: Mapping[str, MethodConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.by_name) > MAX_METHOD_NAMES:
            raise InvalidConfigError(f"more than {MAX_METHOD_NAMES} names of methods")
        for name in self.by_name:
            _check_name(name)
        object.__setattr__(self, "by_name", MappingProxyType(dict(self.by_name)))

    def sizes_json(self) -> str | None:
        """The limits of messages as a service config for gRPC, which keeps them; None without.

        It has every name, since an entry without limits hides one that is less specific.
        """
        sizes = {name: _sizes(each) for name, each in self.by_name.items()}
        if not any(sizes.values()):
            return None
        entries = [{"name": [_grpc_name(name)], **size} for name, size in sizes.items()]
        return json.dumps({"methodConfig": entries})

    def of(self, path: str) -> MethodConfig:
        """What holds for the method of that full path, "/pkg.Service/Method"."""
        service = path[1:].rpartition("/")[0]
        for name in (path, service, ""):
            config = self.by_name.get(name)
            if config is not None:
                return config
        return DEFAULT_METHOD


def _sizes(config: MethodConfig) -> dict[str, int]:
    sizes = {
        "maxRequestMessageBytes": config.max_request_bytes,
        "maxResponseMessageBytes": config.max_response_bytes,
    }
    return {name: size for name, size in sizes.items() if size is not None}


def _grpc_name(name: str) -> dict[str, str]:
    if not name.startswith("/"):
        return {"service": name} if name else {}
    service, _, method = name[1:].rpartition("/")
    return {"service": service, "method": method}


def _check_name(name: str) -> None:
    if name.startswith("/"):
        service, _, method = name[1:].rpartition("/")
        fits = bool(service and method)
    else:
        fits = not name.endswith("/")
    if not fits:
        raise InvalidConfigError(
            f"not a method, a service or nothing: {shown(name)}; write /pkg.Service/Method, "
            "pkg.Service or an empty name"
        )

r"""What the registry stores: one endpoint, and how its key and value are written.

The format is etcd's own gRPC naming format (etcd `client/v3/naming/endpoints`), so
that a Go client dialling `etcd:///tallystick/ledger` with etcd's official resolver
finds our services, and we find its:

    key    tallystick/ledger/10.0.0.7:50051
    value  {"Op":0,"Addr":"10.0.0.7:50051","Metadata":"{\"zone\":\"a\"}"}

Go's resolver reads the address from the value and takes the key as a mere name, and
so do we: key and value need not agree (`etcdctl put .../e1 '{"Addr":...}'` is legal).
Metadata is written as a string because an object there panics some Go clients
(grpc-go#8225). Readers accept a string, an object, null and nothing; what is not a
JSON object is somebody else's metadata and leaves every field at its default.

Errors:

    NamingError (a ValueError)
      InvalidServiceNameError     a service name that cannot be part of a key
      MalformedEndpointError      an endpoint, key or value that breaks the format
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from discovery.addresses import Reach, reach

MAX_VALUE_BYTES: Final = 16 * 1024
MAX_SERVICE_NAME_CHARS: Final = 256
MAX_ADDRESS_CHARS: Final = 300
MAX_FIELD_CHARS: Final = 256
MAX_SERVICES: Final = 128
MAX_WEIGHT: Final = 1_000_000

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_SERVICE_NAME = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
# 0.0.0.0 is for listening, and gRPC runs over no multicast.
_NOBODY = (Reach.UNSPECIFIED, Reach.MULTICAST)
# Go's endpoints manager: Add is 0, Delete is 1. Only Add is ever stored.
_OP_ADD = 0
_METADATA = "Metadata"


class NamingError(ValueError):
    """A name, key or value of the registry is not well formed."""


class InvalidServiceNameError(NamingError):
    """The service name cannot be part of a key."""


class MalformedEndpointError(NamingError):
    """An endpoint, or the key or value that should hold one, breaks the format."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that serves one service.

    `address` is `host:port`, an IPv6 host in brackets; other forms (`unix:`, `dns:`)
    are refused, since what is in the registry decides where payments are sent.
    `services` lists full gRPC service names (`tallystick.ledger.v1.LedgerService`).
    `weight` is relative, 1 to MAX_WEIGHT. `started_at` is RFC 3339 UTC, for people
    and for telling two incarnations apart, never for arithmetic. A draining endpoint
    finishes what it has and wants nothing new.

    Raises MalformedEndpointError when a field breaks its limit.
    """

    address: str
    id: str = ""
    zone: str = ""
    weight: int = 1
    version: str = ""
    services: tuple[str, ...] = ()
    started_at: str = ""
    draining: bool = False

    def __post_init__(self) -> None:
        _check_address(self.address)
        _check_text("id", self.id)
        _check_text("zone", self.zone)
        _check_text("version", self.version)
        _check_text("started_at", self.started_at)
        _check_weight(self.weight)
        _check_services(self.services)
        if not isinstance(self.draining, bool):
            raise MalformedEndpointError("draining is not a boolean")


def service_prefix(service: str) -> bytes:
    """The prefix under which every key of `service` stands: `tallystick/ledger/`.

    Raises InvalidServiceNameError.
    """
    return f"{_checked_service(service)}/".encode()


def encode_key(service: str, endpoint: Endpoint) -> bytes:
    """The key of `endpoint`: no leading slash, nothing nested below it.

    Raises InvalidServiceNameError.
    """
    return service_prefix(service) + endpoint.address.encode()


def decode_key(key: bytes) -> tuple[str, str]:
    """Splits a key into service and entry name.

    The name is usually the address, but Go users name entries freely. Everything up
    to the last slash is the service: an entry of `a/b` is never one of `a`.

    Raises MalformedEndpointError.
    """
    try:
        service, slash, name = key.decode().rpartition("/")
    except UnicodeDecodeError:
        raise MalformedEndpointError("key is not UTF-8") from None
    if not slash or not name or not _SERVICE_NAME.fullmatch(service):
        raise MalformedEndpointError("key is not <service>/<name>")
    return service, name


def encode_value(endpoint: Endpoint) -> bytes:
    """The value of `endpoint`, as etcd's endpoints manager writes it.

    Raises MalformedEndpointError when it would exceed MAX_VALUE_BYTES.
    """
    fields = asdict(endpoint)
    address = fields.pop("address")
    value = _compact({"Op": _OP_ADD, "Addr": address, _METADATA: _compact(fields)}).encode()
    if len(value) > MAX_VALUE_BYTES:
        raise MalformedEndpointError(f"value has {len(value)} bytes, more than {MAX_VALUE_BYTES}")
    return value


def decode_value(value: bytes) -> Endpoint:
    """Reads what `encode_value` or etcd's Go endpoints manager wrote.

    Unknown fields are ignored: a newer writer may add some.

    Raises MalformedEndpointError.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise MalformedEndpointError(f"value has more than {MAX_VALUE_BYTES} bytes")
    update = _parse_json(value)
    if not isinstance(update, dict):
        raise MalformedEndpointError("value is not a JSON object")
    if "Addr" not in update:
        # Go's encoding/json takes field names in any case, and people write them so.
        update = {_GO_FIELDS.get(name.lower(), name): field for name, field in update.items()}
    # `type` and not `isinstance`: JSON's true is no operation.
    operation = update.get("Op", _OP_ADD)
    if type(operation) is not int or operation != _OP_ADD:
        raise MalformedEndpointError("Op is not 0 (add)")
    return Endpoint(address=update.get("Addr", ""), **_fields(update.get(_METADATA)))


_GO_FIELDS = {"op": "Op", "addr": "Addr", "metadata": _METADATA}


def metadata_name(update: Mapping[str, Any]) -> str:
    """The field of a value, already parsed, from which `decode_value` takes the metadata."""
    if "Addr" in update:
        return _METADATA
    return next((name for name in reversed([*update]) if name.lower() == "metadata"), _METADATA)


def _fields(metadata: Any) -> dict[str, Any]:
    """Our fields among `metadata`, in whichever form it came."""
    if isinstance(metadata, str):
        try:
            metadata = _parse_json(metadata)
        except MalformedEndpointError:
            return {}
    if not isinstance(metadata, dict):
        return {}
    known = {name: metadata[name] for name in _METADATA_FIELDS if metadata.get(name) is not None}
    if isinstance(known.get("services"), list):
        known["services"] = tuple(known["services"])
    return known


_METADATA_FIELDS = ("id", "zone", "weight", "version", "services", "started_at", "draining")


_DECODER = json.JSONDecoder()


def _parse_json(text: bytes | str) -> Any:
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise MalformedEndpointError("not JSON") from None


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _checked_service(service: str) -> str:
    if len(service) > MAX_SERVICE_NAME_CHARS or not _SERVICE_NAME.fullmatch(service):
        raise InvalidServiceNameError(f"not a service name: {service[:MAX_FIELD_CHARS]!r}")
    return service


def _check_address(address: object) -> None:
    if not isinstance(address, str) or len(address) > MAX_ADDRESS_CHARS:
        raise MalformedEndpointError("address is not a short string")
    reached = reach(address)
    # A zone ("%eth0") names an interface of one host, so it says nothing to another.
    if reached is Reach.MALFORMED or "%" in address:
        raise MalformedEndpointError(f"address is not host:port: {address!r}")
    if reached in _NOBODY:
        raise MalformedEndpointError(f"address is {reached.value}: {address!r}")


def _check_text(name: str, text: object) -> None:
    # Not printable are also lone surrogates, which could not be written as UTF-8 again.
    if not isinstance(text, str) or len(text) > MAX_FIELD_CHARS or not text.isprintable():
        raise MalformedEndpointError(f"{name} is not a short printable string")


def _check_weight(weight: object) -> None:
    # A bool is an int to Python, and no weight.
    if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
        raise MalformedEndpointError(f"weight is not an integer from 1 to {MAX_WEIGHT}")


def _check_services(services: object) -> None:
    if not isinstance(services, tuple) or len(services) > MAX_SERVICES:
        raise MalformedEndpointError(f"services is not a list of at most {MAX_SERVICES}")
    for service in services:
        _check_text("services", service)

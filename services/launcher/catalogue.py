"""The services of the mesh. To add one, add a line to CATALOGUE: nothing else asks for it.

Each is started as `python -m services.<name>`; replica n listens on its port plus n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.launcher.errors import ReplicasError
from services.numbers import whole_number

REPLICAS_MAX = 10
STORES = ("sqlite", "postgres")


@dataclass(frozen=True, slots=True)
class Service:
    """One kind of process: its default first port and how many run unless told otherwise."""

    name: str
    port: int
    replicas: int = 1


CATALOGUE = (
    Service("order", 50051, replicas=2),
    Service("ledger", 50061, replicas=2),
    Service("wallet", 50071),
    Service("coordinator", 50091),
)


def parse_replicas(text: str, catalogue: tuple[Service, ...]) -> dict[str, int]:
    """Reads "order=2 ledger=3"; services that are not named keep their default.

    Raises ReplicasError.
    """
    counts = {service.name: service.replicas for service in catalogue}
    known = {service.name: service for service in catalogue}
    for word in text.replace(",", " ").split():
        name, _, number = word.partition("=")
        if name not in known:
            raise ReplicasError(
                f"REPLICAS: no service {name[:100]!r}; there are {', '.join(known)}"
            )
        counts[name] = _count(name, number)
    return counts


def check_store(store: str) -> None:
    """Raises ReplicasError unless the mesh can keep its books in `store`."""
    if store not in STORES:
        raise ReplicasError(f"STORE={store}: there are {' and '.join(STORES)}")


def shown(replicas: Mapping[str, int]) -> str:
    """The inverse of `parse_replicas`."""
    return " ".join(f"{name}={count}" for name, count in replicas.items())


def _count(service: str, number: str) -> int:
    if count := whole_number(number, REPLICAS_MAX):
        return count
    raise ReplicasError(
        f"REPLICAS: {service}={number[:20]!r} will not do; from 1 to {REPLICAS_MAX}"
    )

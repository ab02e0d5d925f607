"""What was found in books, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from services.backup.comparing import Comparison
from services.backup.manifest import Manifest
from txn.reconcile import Finding, Kind

# Of each kind; how many there are is said in any case.
FINDINGS_SHOWN_MAX = 20


def lines(manifest: Manifest | None, found: Comparison) -> Iterator[str]:
    """For a terminal."""
    if manifest is not None:
        yield (
            f"  as of {manifest.taken_at}, by version {manifest.version}; "
            f"writers waited {manifest.pause_ms:g} ms"
        )
        for name, store in manifest.stores.items():
            schema = " ".join(f"{each}={number}" for each, number in store.schema.items())
            yield f"  {name:<12} {store.size_bytes:>12} bytes  {schema}"
    yield f"  {found.transactions} transactions, {found.branches} branches compared"
    counts = Counter(each.kind for each in found.findings)
    for kind in Kind:
        if counts[kind]:
            mark = "CONTRADICTION " if kind.contradiction else ""
            yield f"  {mark}{counts[kind]} {kind.name}: {kind.value}"
            yield from (f"    {_place(each)}" for each in _shown(found, kind))
    yield (
        "  contradictory: start nothing on these books, see docs/operations.md"
        if found.contradictions
        else "  nothing contradicts itself"
    )


def public(manifest: Manifest | None, found: Comparison) -> dict[str, Any]:
    """For programs."""
    counts = Counter(each.kind for each in found.findings)
    return {
        "manifest": manifest and asdict(manifest),
        "transactions": found.transactions,
        "branches": found.branches,
        "contradictions": len(found.contradictions),
        "counts": {kind.name: counts[kind] for kind in Kind if counts[kind]},
        "findings": [
            {
                "kind": each.kind.name,
                "txn_id": each.txn_id,
                "participant": each.participant,
                "branch_id": each.branch_id,
            }
            for kind in Kind
            for each in _shown(found, kind)
        ],
    }


def _shown(found: Comparison, kind: Kind) -> list[Finding]:
    return [each for each in found.findings if each.kind is kind][:FINDINGS_SHOWN_MAX]


def _place(finding: Finding) -> str:
    return f"{finding.txn_id}  {finding.participant}  {finding.branch_id}".rstrip()

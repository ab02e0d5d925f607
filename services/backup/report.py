"""What was found in books, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from services.backup.comparing import Comparison
from services.backup.manifest import Manifest
from txn.audit import AuditRecord
from txn.clock import US_PER_S
from txn.reconcile import Finding, Kind

# Of each kind; how many there are is said in any case.
FINDINGS_SHOWN_MAX = 20


def lines(manifest: Manifest | None, found: Comparison | None) -> Iterator[str]:
    """For a terminal."""
    if manifest is not None:
        yield from _described(manifest)
    if found is None:
        return
    yield f"  {found.transactions} transactions, {found.branches} branches compared"
    for kind, count in _counts(found).items():
        mark = "CONTRADICTION " if kind.contradiction else ""
        yield f"  {mark}{count} {kind.name}: {kind.value}"
        yield from (f"    {_place(each)}" for each in _shown(found, kind))
    yield (
        "  start nothing on these books: see docs/operations.md"
        if found.contradictions
        else "  nothing contradicts itself"
    )


def public(manifest: Manifest | None, found: Comparison | None) -> dict[str, Any]:
    """For programs."""
    said: dict[str, Any] = {"manifest": manifest and asdict(manifest)}
    if found is None:
        return said
    return said | {
        "transactions": found.transactions,
        "branches": found.branches,
        "contradictions": len(found.contradictions),
        "counts": {kind.name: count for kind, count in _counts(found).items()},
        "findings": [
            {
                "kind": each.kind.name,
                "txn_id": each.txn_id,
                "participant": each.participant,
                "branch_id": each.branch_id,
                "forced": each.forced and _record(each.forced),
            }
            for kind in Kind
            for each in _shown(found, kind)
        ],
    }


def _described(manifest: Manifest) -> Iterator[str]:
    yield (
        f"  as of {manifest.taken_at}, by version {manifest.version}; "
        f"writers waited {manifest.pause_ms:g} ms"
    )
    for name, file in manifest.files.items():
        yield f"  {name:<16} {file.size_bytes:>12} bytes"


def _counts(found: Comparison) -> dict[Kind, int]:
    counts = Counter(each.kind for each in found.findings)
    return {kind: counts[kind] for kind in Kind if counts[kind]}


def _shown(found: Comparison, kind: Kind) -> list[Finding]:
    return [each for each in found.findings if each.kind is kind][:FINDINGS_SHOWN_MAX]


def _place(finding: Finding) -> str:
    place = f"{finding.txn_id}  {finding.participant}  {finding.branch_id}".rstrip()
    if finding.forced is None:
        return place
    said = _record(finding.forced)
    return (
        f"{place}  forced by {said['operator']} at {said['time']}, "
        f"{said['before']} -> {said['after']}: {said['reason']}"
    )


def _record(record: AuditRecord) -> dict[str, str]:
    signature = record.signature
    signed_at = datetime.fromtimestamp(signature.signed_at_us // US_PER_S, UTC)
    return {
        "operator": signature.operator,
        "reason": signature.reason,
        "time": signed_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "before": record.before,
        "after": record.after,
    }

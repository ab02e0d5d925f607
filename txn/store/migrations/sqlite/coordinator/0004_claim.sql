-- A row whose outcome is PENDING is a claim, see claiming.py: a CHECK is changed by a new table.
ALTER TABLE decision RENAME TO decision_before;

CREATE TABLE decision (
    txn_id            TEXT PRIMARY KEY,
    outcome           TEXT NOT NULL CHECK (outcome IN ('COMMITTED', 'ABORTED', 'PENDING')),
    caller            TEXT,
    idempotency_key   TEXT,
    body_hash         BLOB,
    branches          TEXT NOT NULL,          -- JSON: [[branch_id, participant, vote], ...]
    reason            TEXT NOT NULL,
    refused_branch_id TEXT NOT NULL,
    decided_at_us     INTEGER NOT NULL,       -- UTC, microseconds since 1970
    ended             INTEGER NOT NULL CHECK (ended IN (0, 1)),
    checksum          INTEGER,                -- CRC-32, NULL in rows from before it was kept
    UNIQUE (caller, idempotency_key)
) WITHOUT ROWID;

INSERT INTO decision SELECT
    txn_id, outcome, caller, idempotency_key, body_hash, branches, reason, refused_branch_id,
    decided_at_us, ended, checksum
FROM decision_before ORDER BY txn_id;

DROP TABLE decision_before;

CREATE INDEX decision_unfinished ON decision (txn_id) WHERE ended = 0;

-- The log's own random name, one row: every txn_id that is decided here carries it.
CREATE TABLE log_identity (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL
);

-- Write-once outcome rows. A row without a key is an abort that an inquiry wrote.
CREATE TABLE decision (
    txn_id            TEXT PRIMARY KEY,
    outcome           TEXT NOT NULL CHECK (outcome IN ('COMMITTED', 'ABORTED')),
    caller            TEXT,
    idempotency_key   TEXT,
    body_hash         BLOB,
    branches          TEXT NOT NULL,          -- JSON: [[branch_id, participant, vote], ...]
    reason            TEXT NOT NULL,
    refused_branch_id TEXT NOT NULL,
    decided_at_us     INTEGER NOT NULL,       -- UTC, microseconds since 1970
    ended             INTEGER NOT NULL CHECK (ended IN (0, 1)),
    UNIQUE (caller, idempotency_key)
) WITHOUT ROWID;

CREATE INDEX decision_unfinished ON decision (txn_id) WHERE ended = 0;

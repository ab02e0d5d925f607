-- Ids are compared byte by byte, whatever the database's own collation.

-- The log's own random name, one row: every txn_id that is decided here carries it.
CREATE TABLE log_identity (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL
);

-- Write-once outcome rows. A row without a key is an abort that an inquiry wrote; one whose
-- outcome is PENDING is a claim, see claiming.py.
CREATE TABLE decision (
    txn_id            TEXT COLLATE "C" PRIMARY KEY,
    outcome           TEXT NOT NULL CHECK (outcome IN ('COMMITTED', 'ABORTED', 'PENDING')),
    caller            TEXT COLLATE "C",
    idempotency_key   TEXT COLLATE "C",
    body_hash         BYTEA,
    branches          TEXT NOT NULL,          -- JSON: [[branch_id, participant, vote], ...]
    reason            TEXT NOT NULL,
    refused_branch_id TEXT NOT NULL,
    decided_at_us     BIGINT NOT NULL,        -- UTC, microseconds since 1970
    checksum          BIGINT NOT NULL,        -- CRC-32 of what is written once
    ended             INTEGER NOT NULL CHECK (ended IN (0, 1)),
    UNIQUE (caller, idempotency_key)
);

CREATE INDEX decision_unfinished ON decision (txn_id) WHERE ended = 0;

-- The greatest txn_id of a deleted row that had a key: at or below it absence says nothing.
CREATE TABLE truncation (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    txn_id TEXT COLLATE "C" NOT NULL
);

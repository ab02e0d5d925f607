-- The barrier: what this participant remembers of each branch. Ids are compared byte by byte.
CREATE TABLE branch (
    txn_id         TEXT COLLATE "C" NOT NULL,
    branch_id      TEXT COLLATE "C" NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('PREPARED', 'COMMITTED', 'ABORTED')),
    coordinator    TEXT NOT NULL,
    operation_type TEXT,                      -- NULL for an empty abort
    operation      BYTEA,
    prepared_at_us BIGINT NOT NULL,           -- UTC, microseconds since 1970
    reason         TEXT NOT NULL DEFAULT '',  -- why a branch in one phase was refused
    PRIMARY KEY (txn_id, branch_id)
);

CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';

-- Below it every prepare of that log is late: what was there may have been forgotten.
CREATE TABLE prepare_horizon (
    log_id TEXT COLLATE "C" PRIMARY KEY,
    txn_id TEXT COLLATE "C" NOT NULL
);

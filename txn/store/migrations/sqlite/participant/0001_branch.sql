-- The barrier: what this participant remembers of each branch.
CREATE TABLE branch (
    txn_id         TEXT NOT NULL,
    branch_id      TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('PREPARED', 'COMMITTED', 'ABORTED')),
    coordinator    TEXT NOT NULL,
    operation_type TEXT,                      -- NULL for an empty abort
    operation      BLOB,
    prepared_at_us INTEGER NOT NULL,          -- UTC, microseconds since 1970
    PRIMARY KEY (txn_id, branch_id)
) WITHOUT ROWID;

CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';

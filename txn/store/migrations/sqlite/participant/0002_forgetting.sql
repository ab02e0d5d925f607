-- Below it every prepare of that log is late: what was there may have been forgotten.
CREATE TABLE prepare_horizon (
    log_id TEXT PRIMARY KEY,
    txn_id TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';

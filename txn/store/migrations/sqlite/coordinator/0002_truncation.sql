-- The greatest txn_id of a deleted row that had a key: at or below it absence says nothing.
CREATE TABLE truncation (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    txn_id TEXT NOT NULL
);

BEGIN TRANSACTION;
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
INSERT INTO "decision" VALUES('18eb820fddf9a23ed19dd19da3b426ea-f2b2f2a75f8e1d96','COMMITTED','anonymous','fund:alice-d1216a215535',X'8B98A86FDA6D06B93A9A2B6D9ADC9657D7FF4955A5B7D6D17528BBDD12CBD9F5','[["ledger","ledger","COMMIT"]]','','',1795671881111352,1,1022625995);
INSERT INTO "decision" VALUES('18eb820fdf633f56d426e9669dab6738-f2b2f2a75f8e1d96','ABORTED','anonymous','too-much:alice-d1216a215535',X'2B61AF8D8FC0BCCC54D7620C991D6036D285D9C0CB5ABF1E6A4A8380FF024D24','[["ledger","ledger","ABORT"]]','INSUFFICIENT_FUNDS','ledger',1795671881124463,1,3075129313);
INSERT INTO "decision" VALUES('18eb820feab383e1a834fd94d8b45855-f2b2f2a75f8e1d96','COMMITTED','anonymous','pay:alice-d1216a215535:first-01a2166275ad734e90245761ecf5a565',X'912794DF3840D0EDF7923595F1067E4D588EDB248E2D2F7E9272027747A1C3CE','[["order","order","COMMIT"],["ledger","ledger","COMMIT"]]','','',1795671881319041,1,252104608);
INSERT INTO "decision" VALUES('18eb8210472ea0f9df4c08cba0a06e66-f2b2f2a75f8e1d96','COMMITTED','anonymous','pay:alice-d1216a215535:first-01a2166275b174a8bef260ad2355298d',X'EED3B01DA1F73F34E7E1CF0289726A5358BD08B1DF51F2B30D73259A575AFEA5','[["order","order","COMMIT"],["ledger","ledger","COMMIT"]]','','',1795671882873233,0,1451760753);
CREATE TABLE log_identity (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL
);
INSERT INTO "log_identity" VALUES(1,'-f2b2f2a75f8e1d96');
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('coordinator',4);
CREATE TABLE truncation (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    txn_id TEXT NOT NULL
);
CREATE INDEX decision_unfinished ON decision (txn_id) WHERE ended = 0;
COMMIT;

BEGIN TRANSACTION;
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
INSERT INTO "decision" VALUES('01a214cd8d8b77dbb39bec2ef3b7a237-a8167034eb22572c','COMMITTED','anonymous','fund:alice-6bbdc29c855c',X'C8BED682930C5397F15054FA635D98B9B2690114461FADBE5D57CA2E4A544825','[["ledger","ledger","COMMIT"]]','','',1795645345169548,1);
INSERT INTO "decision" VALUES('01a214cd8d9871af856d889ea10ff6b7-a8167034eb22572c','ABORTED','anonymous','too-much:alice-6bbdc29c855c',X'359CB6FDDA1A75A457548323ED550142BDD896C9E2C2CFAED6CA79751C8CBE77','[["ledger","ledger","ABORT"]]','INSUFFICIENT_FUNDS','ledger',1795645345177053,1);
INSERT INTO "decision" VALUES('01a214cd8e4e7214bfe5b90c51dcd592-a8167034eb22572c','COMMITTED','anonymous','pay:alice-6bbdc29c855c:first-01a214cd8da57299a63350d18f0163ac',X'8028AA30F2252724DB01C40254202E2718788D228562B9A0DE9411AC012C8D2A','[["order","order","COMMIT"],["ledger","ledger","COMMIT"]]','','',1795645345364795,1);
INSERT INTO "decision" VALUES('01a214cd9996748993e1785239beeaf8-a8167034eb22572c','COMMITTED','anonymous','pay:alice-6bbdc29c855c:first-01a214cd8da8702ba24682f999208aa1',X'A5A4F72030C88A0AECF8AEB2776C880CBB97B798CA460386FA8DBA6574580C94','[["order","order","COMMIT"],["ledger","ledger","COMMIT"]]','','',1795645348253997,0);
CREATE TABLE log_identity (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL
);
INSERT INTO "log_identity" VALUES(1,'-a8167034eb22572c');
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('coordinator',1);
CREATE INDEX decision_unfinished ON decision (txn_id) WHERE ended = 0;
COMMIT;

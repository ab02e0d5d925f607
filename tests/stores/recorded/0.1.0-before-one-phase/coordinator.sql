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
    ended             INTEGER NOT NULL CHECK (ended IN (0, 1)), checksum INTEGER,
    UNIQUE (caller, idempotency_key)
) WITHOUT ROWID;
INSERT INTO "decision" VALUES('18eb77f7dde02c458fb680d1161a53ca-96f71faca02dbefb','COMMITTED','anonymous','fund:alice-8f2c689ebc50',X'C851AD2DBE5E45BDA4877236CB2BD42718BC2EF847F6B6966BF46D95E0DE3882','[["ledger","ledger","COMMIT"]]','','',1795660782910999,1,2660156893);
INSERT INTO "decision" VALUES('18eb77f7df01860a70dba31f139d3591-96f71faca02dbefb','ABORTED','anonymous','too-much:alice-8f2c689ebc50',X'7FABC76E3339C24B7288677BE0BBEFA9D38C5D51BA70E328A949CC9B7AF4EFFC','[["ledger","ledger","ABORT"]]','INSUFFICIENT_FUNDS','ledger',1795660782920353,1,3474072753);
INSERT INTO "decision" VALUES('18eb77f7eccef0eb33ec34219f2e4d4b-96f71faca02dbefb','COMMITTED','anonymous','pay:alice-8f2c689ebc50:first-01a215b91d50771bafbc37f1ff698f95',X'56A3BA52C85C39E06FF2B665143EA390FAD1348DBC1479D71152E9408FB883F5','[["order","order","COMMIT"],["ledger","ledger","COMMIT"]]','','',1795660783159529,1,3902622342);
INSERT INTO "decision" VALUES('18eb77f8a4e0546b34c24944bbbf38c0-96f71faca02dbefb','COMMITTED','anonymous','pay:alice-8f2c689ebc50:first-01a215b91d5770f1882b3d60ceebd701',X'A5CFEC1F31958383EB96B77AE3B2FB471A4CE14AD2EDAF60ED5E6D9477F2CACB','[["order","order","COMMIT"],["ledger","ledger","COMMIT"]]','','',1795660786248761,0,2715570926);
CREATE TABLE log_identity (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL
);
INSERT INTO "log_identity" VALUES(1,'-96f71faca02dbefb');
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('coordinator',3);
CREATE TABLE truncation (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    txn_id TEXT NOT NULL
);
CREATE INDEX decision_unfinished ON decision (txn_id) WHERE ended = 0;
COMMIT;

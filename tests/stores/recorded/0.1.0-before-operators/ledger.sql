BEGIN TRANSACTION;
CREATE TABLE account (
    account_id    TEXT PRIMARY KEY,
    currency_code TEXT NOT NULL,
    limit_minor   INTEGER NOT NULL,
    posted_minor  INTEGER NOT NULL DEFAULT 0,
    held_minor    INTEGER NOT NULL DEFAULT 0 CHECK (held_minor >= 0),
    created_at_us INTEGER NOT NULL,
    CHECK (posted_minor - held_minor >= limit_minor)
) WITHOUT ROWID;
INSERT INTO "account" VALUES('bank-d1216a215535','EUR',-1000000000000000,-100000,0,1795671881095544);
INSERT INTO "account" VALUES('merchant-d1216a215535','EUR',0,350,0,1795671881093950);
INSERT INTO "account" VALUES('user:alice-d1216a215535','EUR',0,99650,350,1795671881072603);
CREATE TABLE branch (
    txn_id         TEXT NOT NULL,
    branch_id      TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('PREPARED', 'COMMITTED', 'ABORTED')),
    coordinator    TEXT NOT NULL,
    operation_type TEXT,                      -- NULL for an empty abort
    operation      BLOB,
    prepared_at_us INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT '',          -- UTC, microseconds since 1970
    PRIMARY KEY (txn_id, branch_id)
) WITHOUT ROWID;
INSERT INTO "branch" VALUES('18eb820fdf633f56d426e9669dab6738-f2b2f2a75f8e1d96','ledger','ABORTED','',NULL,NULL,1795671881123324,'INSUFFICIENT_FUNDS');
INSERT INTO "branch" VALUES('18eb820feab383e1a834fd94d8b45855-f2b2f2a75f8e1d96','ledger','COMMITTED','coordinator','type.googleapis.com/tallystick.ledger.v1.TransferOperation',X'0A17757365723A616C6963652D64313231366132313535333512156D65726368616E742D6431323136613231353533351A080A0345555210DE0222203031613231363632373561643733346539303234353736316563663561353635',1795671881312529,'');
INSERT INTO "branch" VALUES('18eb8210472ea0f9df4c08cba0a06e66-f2b2f2a75f8e1d96','ledger','PREPARED','coordinator','type.googleapis.com/tallystick.ledger.v1.TransferOperation',X'0A17757365723A616C6963652D64313231366132313535333512156D65726368616E742D6431323136613231353533351A080A0345555210DE0222203031613231363632373562313734613862656632363061643233353532393864',1795671882871366,'');
CREATE TABLE hold (
    txn_id            TEXT NOT NULL,
    branch_id         TEXT NOT NULL,
    debit_account_id  TEXT NOT NULL REFERENCES account,
    credit_account_id TEXT NOT NULL REFERENCES account,
    amount_minor      INTEGER NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (txn_id, branch_id)
) WITHOUT ROWID;
INSERT INTO "hold" VALUES('18eb8210472ea0f9df4c08cba0a06e66-f2b2f2a75f8e1d96','ledger','user:alice-d1216a215535','merchant-d1216a215535',350);
CREATE TABLE journal_entry (
    entry_id     INTEGER PRIMARY KEY,
    txn_id       TEXT NOT NULL,
    branch_id    TEXT NOT NULL,
    reference    TEXT NOT NULL,
    posted_at_us INTEGER NOT NULL,
    UNIQUE (txn_id, branch_id)
);
INSERT INTO "journal_entry" VALUES(1,'18eb820fddf9a23ed19dd19da3b426ea-f2b2f2a75f8e1d96','ledger','',1795671881113397);
INSERT INTO "journal_entry" VALUES(2,'18eb820feab383e1a834fd94d8b45855-f2b2f2a75f8e1d96','ledger','01a2166275ad734e90245761ecf5a565',1795671881321708);
CREATE TABLE posting (
    entry_id      INTEGER NOT NULL REFERENCES journal_entry,
    line          INTEGER NOT NULL,
    account_id    TEXT NOT NULL REFERENCES account,
    currency_code TEXT NOT NULL,
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (entry_id, line)
) WITHOUT ROWID;
INSERT INTO "posting" VALUES(1,1,'bank-d1216a215535','EUR',-100000);
INSERT INTO "posting" VALUES(1,2,'user:alice-d1216a215535','EUR',100000);
INSERT INTO "posting" VALUES(2,1,'user:alice-d1216a215535','EUR',-350);
INSERT INTO "posting" VALUES(2,2,'merchant-d1216a215535','EUR',350);
CREATE TABLE prepare_horizon (
    log_id TEXT PRIMARY KEY,
    txn_id TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "prepare_horizon" VALUES('-f2b2f2a75f8e1d96','18eb820fdf633f56d426e9669dab6738-f2b2f2a75f8e1d96');
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('ledger',1);
INSERT INTO "schema_version" VALUES('participant',3);
CREATE INDEX posting_by_account ON posting (account_id, entry_id);
CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';
COMMIT;

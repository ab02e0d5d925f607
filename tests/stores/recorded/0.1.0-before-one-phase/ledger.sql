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
INSERT INTO "account" VALUES('bank-8f2c689ebc50','EUR',-1000000000000000,-100000,0,1795660782895938);
INSERT INTO "account" VALUES('merchant-8f2c689ebc50','EUR',0,350,0,1795660782888590);
INSERT INTO "account" VALUES('user:alice-8f2c689ebc50','EUR',0,99650,350,1795660782876546);
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
INSERT INTO "branch" VALUES('18eb77f7eccef0eb33ec34219f2e4d4b-96f71faca02dbefb','ledger','COMMITTED','coordinator','type.googleapis.com/tallystick.ledger.v1.TransferOperation',X'0A17757365723A616C6963652D38663263363839656263353012156D65726368616E742D3866326336383965626335301A080A0345555210DE0222203031613231356239316435303737316261666263333766316666363938663935',1795660783152522);
INSERT INTO "branch" VALUES('18eb77f8a4e0546b34c24944bbbf38c0-96f71faca02dbefb','ledger','PREPARED','coordinator','type.googleapis.com/tallystick.ledger.v1.TransferOperation',X'0A17757365723A616C6963652D38663263363839656263353012156D65726368616E742D3866326336383965626335301A080A0345555210DE0222203031613231356239316435373730663138383262336436306365656264373031',1795660786246298);
CREATE TABLE hold (
    txn_id            TEXT NOT NULL,
    branch_id         TEXT NOT NULL,
    debit_account_id  TEXT NOT NULL REFERENCES account,
    credit_account_id TEXT NOT NULL REFERENCES account,
    amount_minor      INTEGER NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (txn_id, branch_id)
) WITHOUT ROWID;
INSERT INTO "hold" VALUES('18eb77f8a4e0546b34c24944bbbf38c0-96f71faca02dbefb','ledger','user:alice-8f2c689ebc50','merchant-8f2c689ebc50',350);
CREATE TABLE journal_entry (
    entry_id     INTEGER PRIMARY KEY,
    txn_id       TEXT NOT NULL,
    branch_id    TEXT NOT NULL,
    reference    TEXT NOT NULL,
    posted_at_us INTEGER NOT NULL,
    UNIQUE (txn_id, branch_id)
);
INSERT INTO "journal_entry" VALUES(1,'18eb77f7dde02c458fb680d1161a53ca-96f71faca02dbefb','ledger','',1795660782912544);
INSERT INTO "journal_entry" VALUES(2,'18eb77f7eccef0eb33ec34219f2e4d4b-96f71faca02dbefb','ledger','01a215b91d50771bafbc37f1ff698f95',1795660783161438);
CREATE TABLE posting (
    entry_id      INTEGER NOT NULL REFERENCES journal_entry,
    line          INTEGER NOT NULL,
    account_id    TEXT NOT NULL REFERENCES account,
    currency_code TEXT NOT NULL,
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (entry_id, line)
) WITHOUT ROWID;
INSERT INTO "posting" VALUES(1,1,'bank-8f2c689ebc50','EUR',-100000);
INSERT INTO "posting" VALUES(1,2,'user:alice-8f2c689ebc50','EUR',100000);
INSERT INTO "posting" VALUES(2,1,'user:alice-8f2c689ebc50','EUR',-350);
INSERT INTO "posting" VALUES(2,2,'merchant-8f2c689ebc50','EUR',350);
CREATE TABLE prepare_horizon (
    log_id TEXT PRIMARY KEY,
    txn_id TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "prepare_horizon" VALUES('-96f71faca02dbefb','18eb77f7df01860a70dba31f139d3591-96f71faca02dbefb');
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('ledger',1);
INSERT INTO "schema_version" VALUES('participant',2);
CREATE INDEX posting_by_account ON posting (account_id, entry_id);
CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';
COMMIT;

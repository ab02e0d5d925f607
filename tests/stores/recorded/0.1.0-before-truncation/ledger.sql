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
INSERT INTO "account" VALUES('bank-6bbdc29c855c','EUR',-1000000000000000,-100000,0,1795645345149697);
INSERT INTO "account" VALUES('merchant-6bbdc29c855c','EUR',0,350,0,1795645345146798);
INSERT INTO "account" VALUES('user:alice-6bbdc29c855c','EUR',0,99650,350,1795645345141829);
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
INSERT INTO "branch" VALUES('01a214cd8e4e7214bfe5b90c51dcd592-a8167034eb22572c','ledger','COMMITTED','coordinator','type.googleapis.com/tallystick.ledger.v1.TransferOperation',X'0A17757365723A616C6963652D36626264633239633835356312156D65726368616E742D3662626463323963383535631A080A0345555210DE0222203031613231346364386461353732393961363333353064313866303136336163',1795645345359201);
INSERT INTO "branch" VALUES('01a214cd9996748993e1785239beeaf8-a8167034eb22572c','ledger','PREPARED','coordinator','type.googleapis.com/tallystick.ledger.v1.TransferOperation',X'0A17757365723A616C6963652D36626264633239633835356312156D65726368616E742D3662626463323963383535631A080A0345555210DE0222203031613231346364386461383730326261323436383266393939323038616131',1795645348252193);
CREATE TABLE hold (
    txn_id            TEXT NOT NULL,
    branch_id         TEXT NOT NULL,
    debit_account_id  TEXT NOT NULL REFERENCES account,
    credit_account_id TEXT NOT NULL REFERENCES account,
    amount_minor      INTEGER NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (txn_id, branch_id)
) WITHOUT ROWID;
INSERT INTO "hold" VALUES('01a214cd9996748993e1785239beeaf8-a8167034eb22572c','ledger','user:alice-6bbdc29c855c','merchant-6bbdc29c855c',350);
CREATE TABLE journal_entry (
    entry_id     INTEGER PRIMARY KEY,
    txn_id       TEXT NOT NULL,
    branch_id    TEXT NOT NULL,
    reference    TEXT NOT NULL,
    posted_at_us INTEGER NOT NULL,
    UNIQUE (txn_id, branch_id)
);
INSERT INTO "journal_entry" VALUES(1,'01a214cd8d8b77dbb39bec2ef3b7a237-a8167034eb22572c','ledger','',1795645345171800);
INSERT INTO "journal_entry" VALUES(2,'01a214cd8e4e7214bfe5b90c51dcd592-a8167034eb22572c','ledger','01a214cd8da57299a63350d18f0163ac',1795645345366141);
CREATE TABLE posting (
    entry_id      INTEGER NOT NULL REFERENCES journal_entry,
    line          INTEGER NOT NULL,
    account_id    TEXT NOT NULL REFERENCES account,
    currency_code TEXT NOT NULL,
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (entry_id, line)
) WITHOUT ROWID;
INSERT INTO "posting" VALUES(1,1,'bank-6bbdc29c855c','EUR',-100000);
INSERT INTO "posting" VALUES(1,2,'user:alice-6bbdc29c855c','EUR',100000);
INSERT INTO "posting" VALUES(2,1,'user:alice-6bbdc29c855c','EUR',-350);
INSERT INTO "posting" VALUES(2,2,'merchant-6bbdc29c855c','EUR',350);
CREATE TABLE prepare_horizon (
    log_id TEXT PRIMARY KEY,
    txn_id TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "prepare_horizon" VALUES('-a8167034eb22572c','01a214cd8d9871af856d889ea10ff6b7-a8167034eb22572c');
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('ledger',1);
INSERT INTO "schema_version" VALUES('participant',2);
CREATE INDEX posting_by_account ON posting (account_id, entry_id);
CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';
COMMIT;

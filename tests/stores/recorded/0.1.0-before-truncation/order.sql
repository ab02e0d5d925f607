BEGIN TRANSACTION;
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
INSERT INTO "branch" VALUES('01a214cd8e4e7214bfe5b90c51dcd592-a8167034eb22572c','order','COMMITTED','coordinator','type.googleapis.com/tallystick.order.v1.PayTradeOperation',X'0A20303161323134636438646135373239396136333335306431386630313633616312080A0345555210DE021A156D65726368616E742D3662626463323963383535632217757365723A616C6963652D366262646332396338353563',1795645345363780);
INSERT INTO "branch" VALUES('01a214cd9996748993e1785239beeaf8-a8167034eb22572c','order','PREPARED','coordinator','type.googleapis.com/tallystick.order.v1.PayTradeOperation',X'0A20303161323134636438646138373032626132343638326639393932303861613112080A0345555210DE021A156D65726368616E742D3662626463323963383535632217757365723A616C6963652D366262646332396338353563',1795645348252771);
CREATE TABLE prepare_horizon (
    log_id TEXT PRIMARY KEY,
    txn_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('order',1);
INSERT INTO "schema_version" VALUES('participant',2);
CREATE TABLE trade (
    trade_no         TEXT PRIMARY KEY,
    merchant_id      TEXT NOT NULL,
    out_trade_no     TEXT NOT NULL,
    subject          TEXT NOT NULL,
    currency_code    TEXT NOT NULL,
    amount_minor     INTEGER NOT NULL CHECK (amount_minor > 0),
    payee_account_id TEXT NOT NULL,
    state            TEXT NOT NULL
        CHECK (state IN ('WAIT_BUYER_PAY', 'PAYING', 'TRADE_SUCCESS', 'TRADE_CLOSED')),
    txn_id           TEXT NOT NULL DEFAULT '',   -- whose payment is, or was, under way
    payer_account_id TEXT NOT NULL DEFAULT '',
    valid_for_us     INTEGER NOT NULL,
    created_at_us    INTEGER NOT NULL,
    expires_at_us    INTEGER NOT NULL,
    paid_at_us       INTEGER,
    UNIQUE (merchant_id, out_trade_no)
) WITHOUT ROWID;
INSERT INTO "trade" VALUES('01a214cd8da57299a63350d18f0163ac','merchant-6bbdc29c855c','1','two coffees','EUR',350,'merchant-6bbdc29c855c','TRADE_SUCCESS','01a214cd8e4e7214bfe5b90c51dcd592-a8167034eb22572c','user:alice-6bbdc29c855c',900000000,1795645345189532,1795646245189532,1795645345366044);
INSERT INTO "trade" VALUES('01a214cd8da8702ba24682f999208aa1','merchant-6bbdc29c855c','2','two coffees','EUR',350,'merchant-6bbdc29c855c','PAYING','01a214cd9996748993e1785239beeaf8-a8167034eb22572c','user:alice-6bbdc29c855c',900000000,1795645345192570,1795646245192570,NULL);
INSERT INTO "trade" VALUES('01a214cd8daa7035a608772fdf1b8613','merchant-6bbdc29c855c','3','two coffees','EUR',350,'merchant-6bbdc29c855c','WAIT_BUYER_PAY','','',900000000,1795645345194281,1795646245194281,NULL);
CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';
COMMIT;

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
INSERT INTO "branch" VALUES('18eb77f7eccef0eb33ec34219f2e4d4b-96f71faca02dbefb','order','COMMITTED','coordinator','type.googleapis.com/tallystick.order.v1.PayTradeOperation',X'0A20303161323135623931643530373731626166626333376631666636393866393512080A0345555210DE021A156D65726368616E742D3866326336383965626335302217757365723A616C6963652D386632633638396562633530',1795660783156677);
INSERT INTO "branch" VALUES('18eb77f8a4e0546b34c24944bbbf38c0-96f71faca02dbefb','order','PREPARED','coordinator','type.googleapis.com/tallystick.order.v1.PayTradeOperation',X'0A20303161323135623931643537373066313838326233643630636565626437303112080A0345555210DE021A156D65726368616E742D3866326336383965626335302217757365723A616C6963652D386632633638396562633530',1795660786246729);
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
INSERT INTO "trade" VALUES('01a215b91d50771bafbc37f1ff698f95','merchant-8f2c689ebc50','1','two coffees','EUR',350,'merchant-8f2c689ebc50','TRADE_SUCCESS','18eb77f7eccef0eb33ec34219f2e4d4b-96f71faca02dbefb','user:alice-8f2c689ebc50',900000000,1795660782928115,1795661682928115,1795660783161274);
INSERT INTO "trade" VALUES('01a215b91d5770f1882b3d60ceebd701','merchant-8f2c689ebc50','2','two coffees','EUR',350,'merchant-8f2c689ebc50','PAYING','18eb77f8a4e0546b34c24944bbbf38c0-96f71faca02dbefb','user:alice-8f2c689ebc50',900000000,1795660782935947,1795661682935947,NULL);
INSERT INTO "trade" VALUES('01a215b91d5b77848035b3e4dab39019','merchant-8f2c689ebc50','3','two coffees','EUR',350,'merchant-8f2c689ebc50','WAIT_BUYER_PAY','','',900000000,1795660782939449,1795661682939449,NULL);
CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';
COMMIT;

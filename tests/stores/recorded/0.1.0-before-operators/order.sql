BEGIN TRANSACTION;
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
INSERT INTO "branch" VALUES('18eb820feab383e1a834fd94d8b45855-f2b2f2a75f8e1d96','order','COMMITTED','coordinator','type.googleapis.com/tallystick.order.v1.PayTradeOperation',X'0A20303161323136363237356164373334653930323435373631656366356135363512080A0345555210DE021A156D65726368616E742D6431323136613231353533352217757365723A616C6963652D643132313661323135353335',1795671881318087,'');
INSERT INTO "branch" VALUES('18eb8210472ea0f9df4c08cba0a06e66-f2b2f2a75f8e1d96','order','PREPARED','coordinator','type.googleapis.com/tallystick.order.v1.PayTradeOperation',X'0A20303161323136363237356231373461386265663236306164323335353239386412080A0345555210DE021A156D65726368616E742D6431323136613231353533352217757365723A616C6963652D643132313661323135353335',1795671882870994,'');
CREATE TABLE prepare_horizon (
    log_id TEXT PRIMARY KEY,
    txn_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('order',1);
INSERT INTO "schema_version" VALUES('participant',3);
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
INSERT INTO "trade" VALUES('01a2166275ad734e90245761ecf5a565','merchant-d1216a215535','1','two coffees','EUR',350,'merchant-d1216a215535','TRADE_SUCCESS','18eb820feab383e1a834fd94d8b45855-f2b2f2a75f8e1d96','user:alice-d1216a215535',900000000,1795671881133703,1795672781133703,1795671881320731);
INSERT INTO "trade" VALUES('01a2166275b174a8bef260ad2355298d','merchant-d1216a215535','2','two coffees','EUR',350,'merchant-d1216a215535','PAYING','18eb8210472ea0f9df4c08cba0a06e66-f2b2f2a75f8e1d96','user:alice-d1216a215535',900000000,1795671881137569,1795672781137569,NULL);
INSERT INTO "trade" VALUES('01a2166275b37509967c4f27b897a374','merchant-d1216a215535','3','two coffees','EUR',350,'merchant-d1216a215535','WAIT_BUYER_PAY','','',900000000,1795671881139923,1795672781139923,NULL);
CREATE INDEX branch_in_doubt ON branch (txn_id, branch_id) WHERE state = 'PREPARED';
CREATE INDEX branch_aborted ON branch (txn_id, branch_id) WHERE state = 'ABORTED';
COMMIT;

-- Amounts are integers of minor units; all times are UTC, microseconds since 1970.
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

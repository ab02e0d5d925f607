-- Amounts are integers of minor units; all times are UTC, microseconds since 1970.
CREATE TABLE trade (
    trade_no         TEXT COLLATE "C" PRIMARY KEY,
    merchant_id      TEXT COLLATE "C" NOT NULL,
    out_trade_no     TEXT COLLATE "C" NOT NULL,
    subject          TEXT NOT NULL,
    currency_code    TEXT NOT NULL,
    amount_minor     BIGINT NOT NULL CHECK (amount_minor > 0),
    payee_account_id TEXT NOT NULL,
    state            TEXT NOT NULL
        CHECK (state IN ('WAIT_BUYER_PAY', 'PAYING', 'TRADE_SUCCESS', 'TRADE_CLOSED')),
    txn_id           TEXT NOT NULL DEFAULT '',   -- whose payment is, or was, under way
    payer_account_id TEXT NOT NULL DEFAULT '',
    valid_for_us     BIGINT NOT NULL,
    created_at_us    BIGINT NOT NULL,
    expires_at_us    BIGINT NOT NULL,
    paid_at_us       BIGINT,
    UNIQUE (merchant_id, out_trade_no)
);

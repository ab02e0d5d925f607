-- All amounts are integers of minor units; all times are UTC, microseconds since 1970.
CREATE TABLE account (
    account_id    TEXT COLLATE "C" PRIMARY KEY,
    currency_code TEXT NOT NULL,
    limit_minor   BIGINT NOT NULL,
    posted_minor  BIGINT NOT NULL DEFAULT 0,
    held_minor    BIGINT NOT NULL DEFAULT 0 CHECK (held_minor >= 0),
    created_at_us BIGINT NOT NULL,
    CHECK (posted_minor - held_minor >= limit_minor)
);

-- What prepared transactions have reserved. Posting or voiding a hold removes its row:
-- the journal says what was posted, the barrier what was voided.
CREATE TABLE hold (
    txn_id            TEXT COLLATE "C" NOT NULL,
    branch_id         TEXT COLLATE "C" NOT NULL,
    debit_account_id  TEXT COLLATE "C" NOT NULL REFERENCES account,
    credit_account_id TEXT COLLATE "C" NOT NULL REFERENCES account,
    amount_minor      BIGINT NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (txn_id, branch_id)
);

CREATE TABLE journal_entry (
    entry_id     BIGINT PRIMARY KEY,
    txn_id       TEXT COLLATE "C" NOT NULL,
    branch_id    TEXT COLLATE "C" NOT NULL,
    reference    TEXT NOT NULL,
    posted_at_us BIGINT NOT NULL,
    UNIQUE (txn_id, branch_id)
);

-- Signed: credits are positive, debits negative, so that an entry's postings sum to zero.
CREATE TABLE posting (
    entry_id      BIGINT NOT NULL REFERENCES journal_entry,
    line          INTEGER NOT NULL,
    account_id    TEXT COLLATE "C" NOT NULL REFERENCES account,
    currency_code TEXT NOT NULL,
    amount_minor  BIGINT NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (entry_id, line)
);

CREATE INDEX posting_by_account ON posting (account_id, entry_id);

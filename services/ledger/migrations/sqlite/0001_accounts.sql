-- All amounts are integers of minor units; all times are UTC, microseconds since 1970.
CREATE TABLE account (
    account_id    TEXT PRIMARY KEY,
    currency_code TEXT NOT NULL,
    limit_minor   INTEGER NOT NULL,
    posted_minor  INTEGER NOT NULL DEFAULT 0,
    held_minor    INTEGER NOT NULL DEFAULT 0 CHECK (held_minor >= 0),
    created_at_us INTEGER NOT NULL,
    CHECK (posted_minor - held_minor >= limit_minor)
) WITHOUT ROWID;

-- What prepared transactions have reserved. Posting or voiding a hold removes its row:
-- the journal says what was posted, the barrier what was voided.
CREATE TABLE hold (
    txn_id            TEXT NOT NULL,
    branch_id         TEXT NOT NULL,
    debit_account_id  TEXT NOT NULL REFERENCES account,
    credit_account_id TEXT NOT NULL REFERENCES account,
    amount_minor      INTEGER NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (txn_id, branch_id)
) WITHOUT ROWID;

CREATE TABLE journal_entry (
    entry_id     INTEGER PRIMARY KEY,
    txn_id       TEXT NOT NULL,
    branch_id    TEXT NOT NULL,
    reference    TEXT NOT NULL,
    posted_at_us INTEGER NOT NULL,
    UNIQUE (txn_id, branch_id)
);

-- Signed: credits are positive, debits negative, so that an entry's postings sum to zero.
CREATE TABLE posting (
    entry_id      INTEGER NOT NULL REFERENCES journal_entry,
    line          INTEGER NOT NULL,
    account_id    TEXT NOT NULL REFERENCES account,
    currency_code TEXT NOT NULL,
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (entry_id, line)
) WITHOUT ROWID;

CREATE INDEX posting_by_account ON posting (account_id, entry_id);

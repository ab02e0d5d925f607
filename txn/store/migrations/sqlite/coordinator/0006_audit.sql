-- What operators have forced, each row written with what it changed; see audit.py. For ever.
CREATE TABLE audit (
    number       INTEGER PRIMARY KEY,
    txn_id       TEXT NOT NULL,
    operator     TEXT NOT NULL CHECK (length(trim(operator)) > 0 AND length(operator) <= 64),
    reason       TEXT NOT NULL CHECK (length(trim(reason)) > 0 AND length(reason) <= 500),
    before_it    TEXT NOT NULL,
    after_it     TEXT NOT NULL,
    signed_at_us INTEGER NOT NULL             -- UTC, microseconds since 1970
);

CREATE INDEX audit_txn ON audit (txn_id, number);

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'a record of the audit is never changed');
END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'a record of the audit is never deleted');
END;

-- INSERT OR REPLACE deletes without asking the trigger above.
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number) BEGIN
    SELECT RAISE(ABORT, 'a record of the audit is never replaced');
END;

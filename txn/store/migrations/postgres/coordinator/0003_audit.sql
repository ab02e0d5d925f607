-- What operators have forced, each row written with what it changed; see audit.py. For ever.
CREATE TABLE audit (
    number       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    txn_id       TEXT COLLATE "C" NOT NULL,
    operator     TEXT NOT NULL CHECK (length(trim(operator)) > 0 AND length(operator) <= 64),
    reason       TEXT NOT NULL CHECK (length(trim(reason)) > 0 AND length(reason) <= 500),
    before_it    TEXT NOT NULL,
    after_it     TEXT NOT NULL,
    signed_at_us BIGINT NOT NULL              -- UTC, microseconds since 1970
);

CREATE INDEX audit_txn ON audit (txn_id, number);

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''a record of the audit is never changed''; END';

CREATE OR REPLACE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();

-- What no trigger of a row sees.
CREATE OR REPLACE TRIGGER audit_is_not_truncated BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

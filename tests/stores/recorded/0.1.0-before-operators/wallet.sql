BEGIN TRANSACTION;
CREATE TABLE schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('wallet',1);
CREATE TABLE user (
    user_id         TEXT PRIMARY KEY,
    account_id      TEXT NOT NULL,
    currency_code   TEXT NOT NULL,
    password_hash   TEXT NOT NULL,               -- argon2id, with its salt and parameters
    idempotency_key TEXT NOT NULL,
    created_at_us   INTEGER NOT NULL             -- UTC, microseconds since 1970
) WITHOUT ROWID;
INSERT INTO "user" VALUES('alice-d1216a215535','user:alice-d1216a215535','EUR','$argon2id$v=19$m=65536,t=3,p=1$E+nUbd9N5/pEGTSqlITCww$fhd73eDsJFYlqPAIfp4WwKs7dxI1YUvvbIan3J8o9mM','create',1795671881086972);
COMMIT;

CREATE TABLE "user" (
    user_id         TEXT PRIMARY KEY,
    account_id      TEXT NOT NULL,
    currency_code   TEXT NOT NULL,
    password_hash   TEXT NOT NULL,               -- argon2id, with its salt and parameters
    idempotency_key TEXT NOT NULL,
    created_at_us   BIGINT NOT NULL              -- UTC, microseconds since 1970
);

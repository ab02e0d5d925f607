"""Users as SQL. Each function runs inside the caller's local transaction."""

from __future__ import annotations

from dataclasses import dataclass, field

from txn.store.sql import Sql


@dataclass(frozen=True, slots=True)
class User:
    """One user. The hash never shows in a repr, and so never in a log."""

    user_id: str
    account_id: str
    currency_code: str
    password_hash: str = field(repr=False)
    idempotency_key: str
    created_at_us: int


def create(tx: Sql, user: User) -> User:
    """Keeps the user unless the user_id is taken; returns the one that stands."""
    tx.execute(
        'INSERT INTO "user" VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
        (
            user.user_id,
            user.account_id,
            user.currency_code,
            user.password_hash,
            user.idempotency_key,
            user.created_at_us,
        ),
    )
    stands = find(tx, user.user_id)
    assert stands is not None
    return stands


def find(tx: Sql, user_id: str) -> User | None:
    """The user of that name."""
    row = tx.execute(
        "SELECT user_id, account_id, currency_code, password_hash, idempotency_key, created_at_us "
        'FROM "user" WHERE user_id = ?',
        (user_id,),
    ).fetchone()
    return None if row is None else User(*row)


def renew(tx: Sql, user_id: str, password_hash: str, renewed: str) -> None:
    """Puts another hash of the same password in the place of the one that was checked."""
    tx.execute(
        'UPDATE "user" SET password_hash = ? WHERE user_id = ? AND password_hash = ?',
        (renewed, user_id, password_hash),
    )

"""The name under which PostgreSQL keeps a prepared branch: all that is known of it until it ends.

    tallystick/<schema>/<txn_id>/<branch_id>/<coordinator>/<digest of the operation>

What a prepared transaction has written nobody sees before it is committed, so a repeated Prepare,
a question to the coordinator, and who looks for orphans have to make do with its name. Only a
coordinator's name may hold a slash.
"""

from __future__ import annotations

import hashlib
import re

from txn.errors import FieldViolation, InvalidOperation
from txn.model import BranchId, BranchKey, Operation, TxnId
from txn.value import value

# A global transaction identifier is less than 200 bytes long.
# https://www.postgresql.org/docs/current/sql-prepare-transaction.html
GID_BYTES_MAX = 199
_DIGEST_BYTES = 16
_SCHEMA = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_ID = r"[A-Za-z0-9._:-]{1,64}"
_GID = re.compile(
    rf"tallystick/(?P<schema>{_SCHEMA})/(?P<txn_id>{_ID})/(?P<branch_id>{_ID})/"
    rf"(?P<coordinator>[a-z0-9][a-z0-9._/-]*)/(?P<digest>[0-9a-f]{{{2 * _DIGEST_BYTES}}})"
)
_TOO_LONG = FieldViolation(
    "branch_id",
    "prepared.gid",
    "with txn_id and coordinator is longer than a prepared transaction can be named",
)
_NOT_OURS = FieldViolation(
    "branch_id", "prepared.gid", "with txn_id and coordinator cannot name a prepared transaction"
)


@value
class PreparedName:
    """A branch that is prepared in a schema; `digest` is that of its operation, see `digest_of`."""

    schema: str
    key: BranchKey
    coordinator: str
    digest: str

    def gid(self) -> str:
        """As PostgreSQL has it: no character of it has to be escaped. Raises InvalidOperation."""
        gid = f"{prefix_of(self.schema, self.key)}{self.coordinator}/{self.digest}"
        if len(gid) > GID_BYTES_MAX:
            raise InvalidOperation([_TOO_LONG])
        if name_in(gid) != self:
            raise InvalidOperation([_NOT_OURS])
        return gid


def name_in(gid: str) -> PreparedName | None:
    """What a name says; None when it is none of this project's."""
    found = _GID.fullmatch(gid)
    if found is None:
        return None
    key = BranchKey(TxnId(found["txn_id"]), BranchId(found["branch_id"]))
    return PreparedName(found["schema"], key, found["coordinator"], found["digest"])


def is_schema(name: str) -> bool:
    """Whether a schema of that name can stand in a gid."""
    return re.fullmatch(_SCHEMA, name) is not None


def prefix_of(schema: str, key: BranchKey | None = None) -> str:
    """What the names of a schema begin with, or those of one branch there."""
    return f"tallystick/{schema}/" + ("" if key is None else f"{key.txn_id}/{key.branch_id}/")


def digest_of(operation: Operation) -> str:
    """Tells one operation from another, of a branch whose operation nobody can read yet."""
    url = operation.type_url.encode()
    parts = (len(url).to_bytes(8, "big"), url, operation.value)
    return hashlib.sha256(b"".join(parts)).hexdigest()[: 2 * _DIGEST_BYTES]

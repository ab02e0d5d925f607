"""etcd's JSON gateway: what a test does to etcd past the client under test."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from typing import Any, Final

from tests.support.certificates import ServerTls

ROOT_PASSWORD: Final = "root-of-this-test"
_CALL_TIMEOUT_S: Final = 5.0


class EtcdGateway:
    """The calls of one member. A subclass says where that is.

    A call that etcd refuses, or cannot answer for want of a leader, is a RuntimeError.
    """

    def __init__(self, tls: ServerTls | None = None) -> None:
        self._context = None if tls is None else _context(tls)
        self._signs_in = False

    @property
    def endpoint(self) -> str:
        """`host:port` for clients."""
        raise NotImplementedError

    def put(self, key: str, value: bytes, *, lease_id: int = 0) -> None:
        """Writes past the client under test."""
        self.post("/v3/kv/put", {"key": _b64(key), "value": _b64(value), "lease": str(lease_id)})

    def delete(self, key: str) -> None:
        """Deletes one key."""
        self.post("/v3/kv/deleterange", {"key": _b64(key)})

    def clear(self) -> None:
        """Deletes every key."""
        self.post("/v3/kv/deleterange", {"key": _b64(b"\0"), "range_end": _b64(b"\0")})

    def entries(self, prefix: str = "") -> dict[str, bytes]:
        """Every key that starts with `prefix`, and its value."""
        reply = self.post("/v3/kv/range", {"key": _b64(b"\0"), "range_end": _b64(b"\0")})
        pairs = {
            base64.b64decode(each["key"]).decode(): base64.b64decode(each.get("value", ""))
            for each in reply.get("kvs", [])
        }
        return {key: value for key, value in pairs.items() if key.startswith(prefix)}

    def lease_of(self, key: str) -> int:
        """The lease under which `key` stands; 0 for none, or when there is no such key."""
        found = self.post("/v3/kv/range", {"key": _b64(key)}).get("kvs", [])
        return int(found[0].get("lease", 0)) if found else 0

    def revision(self) -> int:
        """The store's revision now."""
        return int(self.post("/v3/kv/range", {"key": _b64("?")})["header"]["revision"])

    def compact(self) -> int:
        """Compacts everything up to now; returns that revision."""
        revision = self.revision()
        self.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def revoke(self, lease_id: int) -> None:
        """Revokes a lease, with all that stands under it."""
        self.post("/v3/lease/revoke", {"ID": str(lease_id)})

    def leases(self) -> list[int]:
        """Every lease there is."""
        return [int(each["ID"]) for each in self.post("/v3/lease/leases", {}).get("leases", [])]

    def leads(self) -> bool:
        """Whether it is the leader, as far as it knows."""
        status = self.post("/v3/maintenance/status", {})
        return bool(status["header"]["member_id"] == status.get("leader"))

    def calls(self, method: str) -> int:
        """How many calls of a gRPC method ("Watch") this incarnation was asked for."""
        return self._metric(rf'grpc_server_started_total{{grpc_method="{method}",.*?}}')

    def watchers(self) -> int:
        """How many watches are open at this member."""
        return self._metric("etcd_debugging_mvcc_watcher_total")

    def add_user(self, name: str, password: str, prefix: str) -> None:
        """A user who may read and write what starts with `prefix`."""
        self.post("/v3/auth/role/add", {"name": name})
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        permission = {"permType": "READWRITE", "key": _b64(prefix), "range_end": _b64(end)}
        self.post("/v3/auth/role/grant", {"name": name, "perm": permission})
        self.post("/v3/auth/user/add", {"name": name, "password": password})
        self.post("/v3/auth/user/grant", {"user": name, "role": name})

    def set_password(self, name: str, password: str) -> None:
        """Changes a user's password."""
        self.post("/v3/auth/user/changepw", {"name": name, "password": password})

    def enable_auth(self) -> None:
        """Switches authentication on; from then on the calls made here are root's."""
        self.post("/v3/auth/role/add", {"name": "root"})
        self.post("/v3/auth/user/add", {"name": "root", "password": ROOT_PASSWORD})
        self.post("/v3/auth/user/grant", {"user": "root", "role": "root"})
        self.post("/v3/auth/enable", {})
        self._signs_in = True

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call of the gateway."""
        headers = {}
        if self._signs_in:
            root = {"name": "root", "password": ROOT_PASSWORD}
            signed_in = self._request("POST", "/v3/auth/authenticate", root, {})
            headers["Authorization"] = json.loads(signed_in)["token"]
        reply: dict[str, Any] = json.loads(self._request("POST", path, body, headers))
        return reply

    def healthy(self) -> bool:
        """It answers and has a leader."""
        try:
            reply = json.loads(self._request("GET", "/health", None, {}))
        except (OSError, http.client.HTTPException, ValueError, RuntimeError):
            return False
        return bool(reply.get("health") == "true")

    def _metric(self, name: str) -> int:
        text = self._request("GET", "/metrics", None, {})
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return int(float(found.group(1))) if found else 0

    def _request(self, verb: str, path: str, body: object, headers: dict[str, str]) -> str:
        connection = self._connection()
        try:
            connection.request(verb, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {response.status} {text}")
        return text

    def _connection(self) -> http.client.HTTPConnection:
        host, _, port = self.endpoint.rpartition(":")
        if self._context is None:
            return http.client.HTTPConnection(host, int(port), timeout=_CALL_TIMEOUT_S)
        return http.client.HTTPSConnection(
            host, int(port), timeout=_CALL_TIMEOUT_S, context=self._context
        )


def _context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.ca))
    # The helper has to get in where the certificate names another host on purpose.
    context.check_hostname = False
    if tls.client is not None:
        context.load_cert_chain(tls.client.certificate, tls.client.key)
    return context


def _b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()

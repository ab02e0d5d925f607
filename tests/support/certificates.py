"""Certificates for tests: made afresh, by an authority of the test's own or by a foreign one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How a test's server encrypts; with `client_ca` clients need a certificate of that one.

    `ca` vouches for `own`, and `client` is what the test itself shows.
    """

    own: KeyPair
    ca: Path
    client_ca: Path | None = None
    client: KeyPair | None = None


class Authority:
    """Issues certificates and keeps them in `directory`, under `name`."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._authority = trustme.CA()
        self._directory = directory
        self._name = name
        self._issued = 0
        self.certificate = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.certificate))

    def issue(self, *names: str) -> KeyPair:
        """A certificate for these host names and addresses, for servers and for clients."""
        self._issued += 1
        stem = self._directory / f"{self._name}-{self._issued}"
        leaf = self._authority.issue_cert(*names)
        pair = KeyPair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        for position, part in enumerate(leaf.cert_chain_pems):
            part.write_to_path(str(pair.certificate), append=position > 0)
        leaf.private_key_pem.write_to_path(str(pair.key))
        return pair

    def server(self, *names: str) -> ServerTls:
        """A server at these names, open to whoever speaks TLS."""
        return ServerTls(self.issue(*names), self.certificate)

    def mutual_server(self, *names: str) -> ServerTls:
        """A server at these names, for clients with a certificate of this authority."""
        client = self.issue("client.example")
        return ServerTls(self.issue(*names), self.certificate, self.certificate, client)

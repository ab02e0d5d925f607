"""The variables of the environment that say how etcd is reached. Pure, and quick to import."""

from __future__ import annotations

from typing import Final

ETCD_VARIABLE: Final = "TALLYSTICK_ETCD"
CA_VARIABLE: Final = "TALLYSTICK_ETCD_CA"
CERT_VARIABLE: Final = "TALLYSTICK_ETCD_CERT"
KEY_VARIABLE: Final = "TALLYSTICK_ETCD_KEY"
USER_VARIABLE: Final = "TALLYSTICK_ETCD_USER"
PASSWORD_VARIABLE: Final = "TALLYSTICK_ETCD_PASSWORD"  # noqa: S105 - a variable's name

"""What can keep the mesh from spinning up; each is told in one line: what is wrong, what to do.

LauncherError
├── SetupError         .venv cannot be made
├── HomeError          the state directory cannot be used
├── ReplicasError      REPLICAS or STORE ask for what there is not
├── PortsExhausted     no free port is left
├── EtcdUnavailable    no etcd to start
├── PostgresUnavailable  no PostgreSQL to start
├── MeshDiffers        a mesh is up, with other replicas
├── StartFailed        not everything came to serve in time
├── StopFailed         something would not end
└── DemoFailed         a step of the demo went wrong
"""

from __future__ import annotations


class LauncherError(Exception):
    """Root of the tree; its text is one line for the person at the terminal."""


class SetupError(LauncherError):
    """`.venv` cannot be made."""


class HomeError(LauncherError):
    """The state directory cannot be used."""


class ReplicasError(LauncherError):
    """REPLICAS or STORE ask for what there is not."""


class PortsExhausted(LauncherError):
    """No free port is left."""


class EtcdUnavailable(LauncherError):
    """There is no etcd to start."""


class PostgresUnavailable(LauncherError):
    """There is no PostgreSQL to start."""


class MeshDiffers(LauncherError):
    """A mesh is up, with other replicas than asked for."""


class StartFailed(LauncherError):
    """Not everything came to serve in time."""


class StopFailed(LauncherError):
    """A process would not end."""


class DemoFailed(LauncherError):
    """A step of the demo went wrong."""

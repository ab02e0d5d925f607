"""Every decoder of ours, in one list: hypothesis tries each in the tests, atheris for longer."""

from __future__ import annotations

from tests.fuzz import (
    balancer_targets,
    command_targets,
    discovery_targets,
    log_targets,
    services_targets,
    txn_targets,
)

TARGETS = {
    target.name: target
    for each in (
        discovery_targets,
        command_targets,
        balancer_targets,
        txn_targets,
        log_targets,
        services_targets,
    )
    for target in each.TARGETS
}

"""What docs/balancer.md says of policies and of the config is so."""

import dataclasses
import json
import re

import pytest

from balancer import ChannelConfig, from_metadata, from_service_config
from balancer.policies import RingHash
from balancer.service_setup import BUILT_IN
from tests.docs.pages import ROOT, quoted, rows

PAGE = ROOT / "docs" / "balancer.md"
TEXT = PAGE.read_text(encoding="utf-8")
SWITCHES = {"health", "breaker", "outlier", "eligibility", "slow_start", "zones", "subset"}


def test_every_policy_is_listed() -> None:
    """All that come with the package, and no other."""
    assert sorted(BUILT_IN) == sorted(quoted(row[0])[0] for row in rows(PAGE, "Policies"))


def test_every_switch_is_explained() -> None:
    """Each is a field of the config; its example has all that are off by default."""
    section = TEXT.partition("## Who may be picked\n")[2].partition("\n## ")[0]
    listed = {quoted(row[0])[0] for row in rows(PAGE, "Who may be picked")}
    off = {
        field.name
        for field in dataclasses.fields(ChannelConfig)
        if field.default is None and field.name in SWITCHES
    }
    assert SWITCHES == listed
    assert off == set(re.findall(r"^    (\w+)=balancer\.", section, re.MULTILINE))


@pytest.mark.parametrize("row", rows(PAGE, "Service config"), ids=lambda row: row[0])
def test_names_of_grpc_mean_what_is_listed(row: list[str]) -> None:
    """Each is read as the policy beside it."""
    text = json.dumps({"loadBalancingConfig": [{quoted(row[0])[0]: {}}]})
    found = from_service_config(text, base=ChannelConfig(hash_key=from_metadata("k"))).policy
    assert quoted(row[1])[0] == ("ring_hash" if isinstance(found, RingHash) else found)

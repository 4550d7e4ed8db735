"""The profiles agree with each other and with the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles" / "slurm" / "profile.v9+.yaml"
RULES = {
    match[1]: match[0]
    for path in sorted((ROOT / "rules").glob("*.smk"))
    for match in re.finditer(r"^(?:rule|checkpoint) (\w+):\n(?:(?: .*)?\n)*", path.read_text(), re.MULTILINE)
}


@pytest.fixture(scope="module")
def slurm() -> dict:
    return yaml.safe_load(PROFILE.read_text())


def test_rules_are_read_here_as_they_are_written():
    assert {"frames", "optimize", "report", "pips_train"} <= set(RULES)
    assert "gpu=" in RULES["optimize"]
    assert "gpu=" not in RULES["frames"]


def test_what_makes_a_result_stale_is_the_same_everywhere(slurm):
    default = yaml.safe_load((ROOT / "profiles" / "default" / "profile.v9+.yaml").read_text())
    same = ("rerun-triggers", "keep-going", "rerun-incomplete", "nolock")
    assert {key: slurm[key] for key in same} == {key: default[key] for key in same}


def test_tries_are_counted_in_the_profile_alone(slurm):
    assert slurm["retries"] == 2
    assert not any("retries" in text for text in RULES.values())


def test_jobs_are_neither_arrays_nor_groups(slurm):
    assert not any("array" in key or "group" in key for key in slurm)
    assert not any("group:" in text for text in RULES.values())


def test_the_kind_of_gpu_is_named_for_every_stage_that_asks_for_one():
    named = set(re.findall(r"^# {3}(\w+): (?:&gpu|\*gpu)", PROFILE.read_text(), re.MULTILINE))
    assert named == {rule for rule, text in RULES.items() if "gpu=" in text}


def test_the_commented_lines_are_what_they_should_be():
    """Uncommented they are a profile that names a GPU once for all of these rules."""
    text = PROFILE.read_text()
    start = text.index("# set-resources:")
    lines = text[start : text.index("\n\n", start)].splitlines()
    uncommented = yaml.safe_load("\n".join(re.sub("^# ?", "", line) for line in lines))
    assert set(map(str, uncommented["set-resources"]["tracks"])) == {"gpu_model"}


def test_there_is_a_partition_with_gpus_and_one_without(slurm):
    partitions = yaml.safe_load((PROFILE.parent / slurm["slurm-partition-config"]).read_text())["partitions"]
    assert {bool(limits["max_gpu"]) for limits in partitions.values()} == {True, False}

"""What jobs took, against what everypoint/stages/costs.py estimates: from the records of any finished run.

    python benchmarks/costs.py CONFIG    in the working directory of the run

For every rule: how many jobs, CPU seconds and memory measured and estimated, and the ratio measured / estimated of the
worst. On a GPU (``--gpu``) elapsed seconds are compared instead. The constants of costs.py were chosen with it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from everypoint.config.load import read_yaml
from everypoint.errors import EverypointError
from everypoint.stages import costs
from everypoint.stages.plan import Plan, make_plan

KEYED = ("flow", "features", "features_part", "depth", "sparse", "matches")


def wildcards_of(name: str, video: str) -> tuple[str, SimpleNamespace]:
    """The rule and the wildcards of a record such as ``flow.raft-1a2b3c.1of2``."""
    rule, *rest = name.split(".")
    found: dict[str, Any] = {"video": video}
    if rest:
        found["key" if rule in KEYED else "preset"] = rest[0]
    if len(rest) > 1:
        found["shard"] = rest[1]
    return rule, SimpleNamespace(**found)


def rows(plan: Plan, gpu: bool) -> dict[str, list[tuple[float, float, float, float]]]:
    """Of every rule: (seconds, estimated seconds, MB, estimated MB) of its jobs that belong to this configuration."""
    found = defaultdict(list)
    for record in sorted(Path(plan.results).glob("*/logs/*.jsonl")):
        video = record.parent.parent.name
        rule, wildcards = wildcards_of(record.name.removesuffix(".jsonl"), video)
        stage = "features" if rule == "features_part" else rule
        try:
            plan.parent(video)
            cost = plan.cost(stage, wildcards)
        except (KeyError, AttributeError, EverypointError):
            continue  # of another configuration
        measured = json.loads(record.read_text().splitlines()[-1])
        cores = costs.GPU_SPEED.get(stage, 1.0) if gpu else 1.0
        seconds = measured["s"] if gpu else measured["cpu_time"]
        found[rule].append((seconds, cost.elapsed(cores), measured["max_rss"], cost.megabytes))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    plan = make_plan(read_yaml(arguments.config), str(arguments.config))
    print("| rule | jobs | s measured | s estimated | worst ratio | MB measured | MB estimated | worst ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for rule, jobs in sorted(rows(plan, arguments.gpu).items()):
        seconds, wanted, memory, expected = (sum(column) / len(jobs) for column in zip(*jobs, strict=True))
        worst = max(job[0] / job[1] for job in jobs), max(job[2] / job[3] for job in jobs)
        line = f"{seconds:.1f} | {wanted:.1f} | {worst[0]:.2f} | {memory:.0f} | {expected:.0f} | {worst[1]:.2f}"
        print(f"| {rule} | {len(jobs)} | {line} |")


if __name__ == "__main__":
    main()

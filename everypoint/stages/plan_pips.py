"""What rules/pips.smk asks: which clips are exported where, by how many jobs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from everypoint.config.options_export import ExportOptions
from everypoint.config.user import Config


def trains(config: Config) -> bool:
    """Whether data of PIPs++ are named, so that there may be no video to track."""
    return config.pips.export.root is not None


@dataclass(frozen=True)
class ExportPlan:
    """The export of training clips."""

    options: ExportOptions
    seed: int

    @property
    def folder(self) -> str:
        """``pod_export/aa_36_128_256x384``."""
        one = self.options
        name = f"{one.name}_{one.frames}_{one.points}_{one.size[0]}x{one.size[1]}"
        return os.path.normpath(os.path.join(os.path.expanduser(one.folder), name))

    @property
    def shards(self) -> list[str]:
        """``1of8`` ... ``8of8``."""
        return [f"{n}of{self.options.shards}" for n in range(1, self.options.shards + 1)]

    def parameters(self) -> dict[str, Any]:
        """Parameters of rule pips_index: all that the clips depend on."""
        root = os.path.expanduser(self.options.root) if self.options.root else None
        return self.options.model_dump(mode="json", exclude={"folder", "shards"}) | {"root": root}


def export_plan(config: Config) -> ExportPlan:
    """The plan of a configuration."""
    return ExportPlan(config.pips.export, config.seed)

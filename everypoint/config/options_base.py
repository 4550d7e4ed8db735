"""What all option models have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base of all options: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

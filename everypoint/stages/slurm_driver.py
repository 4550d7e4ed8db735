"""The driver of a run under SLURM: it outlives a controller that does not answer for a while.

Snakemake's plug-in for SLURM asks about all jobs at once. When five questions within a second stay without an answer (a
restart of the controller is enough), it takes no job for running any more, asks about none again, and waits for them
for ever. Here a question without an answer is one that has said nothing of any job: it is put again at the next turn.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from logging import Logger
from types import ModuleType

PLUG_IN = "snakemake_executor_plugin_slurm"
Answer = tuple[dict[str, str] | None, float | None]  # state of jobs by number, seconds; None without an answer
Query = Callable[[str, Logger], Awaitable[Answer]]


def outlive_outages(plug_in: ModuleType | None = None) -> None:
    """Let the plug-in, if this process has loaded it, keep its jobs when SLURM does not answer."""
    plug_in = plug_in or sys.modules.get(PLUG_IN)
    query = getattr(plug_in, "query_job_status", None)
    if query is not None and not hasattr(query, "__wrapped__"):
        plug_in.query_job_status = keeping(query)


def keeping(query: Query) -> Query:
    """``query`` that never says that it failed, but tells the log."""

    @functools.wraps(query)
    async def asked(command: str, logger: Logger) -> Answer:
        states, seconds = await query(command, logger)
        if states is None:
            logger.warning("SLURM does not answer (%s): its jobs are asked about again later", command.split()[0])
            return {}, 0.0
        return states, seconds

    return asked

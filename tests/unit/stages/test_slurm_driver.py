"""What the driver makes of a controller that does not answer; tests/workflow/test_slurm_states.py has whole runs."""

from __future__ import annotations

import asyncio
import importlib
import logging
from types import ModuleType

import pytest

from everypoint.stages.slurm_driver import PLUG_IN, keeping, outlive_outages


@pytest.mark.parametrize(
    ("answer", "kept", "warned"),
    [
        (({"7": "RUNNING"}, 0.1), ({"7": "RUNNING"}, 0.1), False),
        (({}, 0.1), ({}, 0.1), False),
        ((None, None), ({}, 0.0), True),
    ],
)
def test_no_answer_says_nothing_of_any_job(answer, kept, warned, caplog):
    async def query(command, logger):
        return answer

    assert asyncio.run(keeping(query)("squeue --me", logging.getLogger("test"))) == kept
    assert ("SLURM does not answer (squeue)" in caplog.text) == warned


def test_it_is_done_once():
    async def query(command, logger):
        return None, None

    plug_in = ModuleType("plug_in")
    plug_in.query_job_status = query
    outlive_outages(plug_in)
    outlive_outages(plug_in)
    assert plug_in.query_job_status.__wrapped__ is query


def test_the_plug_in_has_what_is_replaced():
    """Where a new version names it otherwise, look whether it still forgets its jobs."""
    module = importlib.import_module(PLUG_IN)
    assert asyncio.iscoroutinefunction(module.query_job_status)
    assert "query_job_status" in module.Executor.check_active_jobs.__code__.co_names


def test_other_programs_have_no_plug_in():
    outlive_outages(ModuleType("other"))

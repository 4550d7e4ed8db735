"""What the tests in ``tests/unit/test_guards.py`` look for in the project's own files.

Every check takes the content of a file and gives its findings; none of them runs anything of what it reads.
"""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One offence: the line (from 1) and what is wrong with it."""

    line: int
    text: str

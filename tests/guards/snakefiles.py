"""Offences in Snakefiles, which are not Python and are read line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.guards import Finding

RULE = re.compile(r"^(?:rule|checkpoint)\s+(\w+)\s*:")
PLACEHOLDER = re.compile(r"(?<!\{)\{(?:input|output|wildcards|params|log)\b[^{}]*\}(?!\})")


def rules(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and body of every rule; a rule ends where the next unindented line begins."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if match := RULE.match(line):
            end = start + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t#"):
                end += 1
            yield start + 1, match[1], "\n".join(lines[start + 1 : end])


def directive(body: str, name: str) -> str | None:
    """What stands under a directive of a rule (``log:``, ``shell:``), or None."""
    match = re.search(
        rf"^(?P<indent>[ \t]+){name}:(?P<rest>.*(?:\n(?:(?P=indent)[ \t]+.*|[ \t]*))*)", body, re.MULTILINE
    )
    return match["rest"] if match else None


def unlike_names(text: str) -> Iterator[Finding]:
    """Rule name = script name = log name = benchmark name. Rules without output are targets and do nothing."""
    for line, name, body in rules(text):
        if directive(body, "output") is None:
            continue
        script = directive(body, "script")
        if script is None or not re.search(rf"/{name}\.py[\"']", script):
            yield Finding(line, f"rule {name} has no script {name}.py")
        for wanted in ("log", "benchmark"):
            content = directive(body, wanted)
            if content is None or name not in content:
                yield Finding(line, f"rule {name} has no {wanted} of its name")


def unquoted_placeholders(text: str) -> Iterator[Finding]:
    """A file name in a shell line without ``:q`` is run by the shell."""
    for line, name, body in rules(text):
        for placeholder in PLACEHOLDER.findall(directive(body, "shell") or ""):
            if not placeholder.endswith(":q}"):
                yield Finding(line, f"rule {name}: {placeholder} without :q in shell")


def careless_code(text: str) -> Iterator[Finding]:
    """Bare excepts and shells in the Python part of a Snakefile."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*except\s*:", line):
            yield Finding(number, "bare except")
        if re.search(r"shell\s*=\s*True|os\.system|pickle\.loads?\b", line):
            yield Finding(number, "a shell or a pickle")

"""The jobs of a plan as Snakemake would see them, from the text of ``rules/*.smk`` itself but without Snakemake.

A whole workflow takes Snakemake a second; this takes milliseconds, so that hundreds of configurations can be compared.
What stands under ``input``, ``output`` and ``params`` of a rule is evaluated as it stands there.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

from everypoint.stages.plan import STAGES, Plan
from tests.guards.snakefiles import directive, rules

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "Snakefile",
    "rules/common.smk",
    *(f"rules/{name}.smk" for name in ("frames", "correspond", "track", "report", "pips")),
)
STATEMENT = re.compile(r"^(?:from |import |def |\w+ = )")
NOT_HERE = ("plan = ", "CONFIG = ", "min_version", "from everypoint.stages.driver")  # what finds the plan
WILDCARD = re.compile(r"\{(\w+)\}")
TARGETS = ("<results>/report.html",)
FORCED = SimpleNamespace(dag_settings=SimpleNamespace(targets=(), forcerun=(), forceall=True))  # every job counts
OF_TRAINING = ("pips_export", "pips_train", "pips_finetune", "pips_test")


@dataclass(frozen=True)
class Job:
    """A rule with values for its wildcards; everything that Snakemake compares between runs."""

    rule: str
    wildcards: tuple[tuple[str, str], ...]
    params: str  # JSON
    inputs: tuple[tuple[str, str], ...]  # (name, path); unnamed ones have the empty name
    outputs: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.inputs]

    def value(self, wildcard: str) -> str:
        return dict(self.wildcards).get(wildcard, "")


@dataclass(frozen=True)
class RuleText:
    """The compiled arguments of one rule."""

    name: str
    input: CodeType
    output: CodeType
    params: CodeType


@dataclass(frozen=True)
class _Unpacked:
    function: Any


def _arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def _unflagged(path: Any, *_: Any, **__: Any) -> Any:
    """``report(...)``, ``directory(...)``, ``temp(...)``: the path alone."""
    return path


def _expand(pattern: str, **values: Any) -> list[str]:
    rows = itertools.product(*([value] if isinstance(value, str) else value for value in values.values()))
    return [WILDCARD.sub(lambda match, row=row: dict(zip(values, row, strict=True))[match[1]], pattern) for row in rows]


def texts() -> dict[str, str]:
    """The Snakefiles by name."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}


def _compiled(body: str, section: str, rule: str) -> CodeType:
    return compile(f"_arguments({(directive(body, section) or '').strip()}\n)", f"{section} of rule {rule}", "eval")


@functools.cache
def rule_texts() -> dict[str, RuleText]:
    """Every rule that makes something."""
    found = {}
    for text in texts().values():
        for _, name, body in rules(text):
            if directive(body, "output") is not None:
                found[name] = RuleText(name, *(_compiled(body, part, name) for part in ("input", "output", "params")))
    return found


def _blocks(text: str) -> Iterator[str]:
    """What begins at the left margin, with the lines that belong to it."""
    yield from re.findall(r"^\S.*(?:\n(?:[ \t)\]}].*|))*", text, re.MULTILINE)


@functools.cache
def _statements() -> tuple[CodeType, ...]:
    """The Python between the rules."""
    found = [block for name, text in texts().items() if name != "Snakefile" for block in _blocks(text)]
    wanted = (block for block in found if STATEMENT.match(block) and not block.startswith(NOT_HERE))
    return tuple(compile(block, "between the rules", "exec") for block in wanted)


@functools.cache
def _declared(word: str) -> tuple[CodeType, ...]:
    """What stands under ``pathvars:`` or ``wildcard_constraints:``."""
    found = [block for text in texts().values() for block in _blocks(text) if block.startswith(f"{word}:")]
    return tuple(compile(f"_arguments({block.removeprefix(f'{word}:').strip()}\n)", word, "eval") for block in found)


@functools.cache
def _expression(text: str, constraints: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """What files an output such as ``results/{video}/frames/frames.npy`` stands for."""
    allowed, parts, seen = dict(constraints), [], set()
    for number, part in enumerate(WILDCARD.split(text)):
        if number % 2 == 0:
            parts.append(re.escape(part))
        else:
            parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>{allowed.get(part, '[^/]+')})")
            seen.add(part)
    return re.compile("".join(parts))


class Workflow:
    """The rules of one plan."""

    def __init__(self, plan: Plan, versions: dict[str, int] | None = None) -> None:
        self.names: dict[str, Any] = {
            "plan": plan, "config": {"runtime": {}}, "_arguments": _arguments, "unpack": _Unpacked, "expand": _expand,
            "checkpoints": self, "VERSIONS": {}, "workflow": FORCED,
        } | dict.fromkeys(("directory", "temp", "report", "ensure", "protected"), _unflagged)  # fmt: skip
        flags = dict(self.names)
        for statement in _statements():
            exec(statement, self.names)
        self.names |= {name: flags[name] for name in ("report", "_arguments", "expand")}
        self.names["VERSIONS"] = current_versions() | (versions or {})
        self.pathvars, self.constraints = ({}, {})
        for word, found in (("pathvars", self.pathvars), ("wildcard_constraints", self.constraints)):
            for code in _declared(word):
                found |= eval(code, self.names)[1]
        self._patterns: dict[bool, list[tuple[str, re.Pattern[str]]]] = {}
        self._jobs: dict[tuple[str, tuple[tuple[str, str], ...]], Job] = {}

    @property
    def shots(self) -> Any:
        """``checkpoints.shots.get(video=...)``: the file has to be there."""
        return SimpleNamespace(get=lambda **wildcards: SimpleNamespace(output=self._outputs("shots", wildcards)))

    def _text(self, text: str, wildcards: dict[str, str]) -> str:
        for key, value in self.pathvars.items():
            text = text.replace(f"<{key}>", value)
        return WILDCARD.sub(lambda match: wildcards.get(match[1], match[0]), text)

    def _output_patterns(self, *, training: bool) -> Iterator[tuple[str, re.Pattern[str]]]:
        for name in rule_texts():
            if name.startswith("pips_") == training:
                for text in self._outputs(name, {}):
                    yield name, _expression(text, tuple(self.constraints.items()))

    def _outputs(self, rule: str, wildcards: dict[str, str]) -> list[str]:
        args, kwargs = eval(rule_texts()[rule].output, self.names)
        return [self._text(path, wildcards) for path in (*args, *kwargs.values())]

    def pattern(self, rule: str) -> str:
        """The first output of a rule as it is written, so that it means the same in another plan."""
        args, kwargs = eval(rule_texts()[rule].output, self.names)
        return [*args, *kwargs.values()][0]

    def _called(self, value: Any, wildcards: SimpleNamespace) -> Any:
        return value(wildcards) if callable(value) else value

    def _inputs(self, rule: str, wildcards: dict[str, str]) -> Iterator[tuple[str, str]]:
        args, kwargs = eval(rule_texts()[rule].input, self.names)
        given = SimpleNamespace(**wildcards)
        for name, value in [*(("", value) for value in args), *kwargs.items()]:
            if isinstance(value, _Unpacked):
                for key, item in value.function(given).items():
                    yield from ((key, path) for path in self._flat(item, wildcards))
            else:
                yield from ((name, path) for path in self._flat(value, wildcards))

    def _flat(self, value: Any, wildcards: dict[str, str]) -> Iterator[str]:
        value = self._called(value, SimpleNamespace(**wildcards))
        if isinstance(value, str):
            yield self._text(value, wildcards)
            return
        for item in value:
            yield from self._flat(item, wildcards)

    def job(self, rule: str, wildcards: dict[str, str]) -> Job:
        """The job of a rule with these wildcards."""
        key = (rule, tuple(sorted(wildcards.items())))
        if key not in self._jobs:
            _, kwargs = eval(rule_texts()[rule].params, self.names)
            given = SimpleNamespace(**wildcards)
            params = {name: self._called(value, given) for name, value in kwargs.items()}
            params = json.dumps(params, sort_keys=True)
            inputs = tuple(self._inputs(rule, wildcards))
            self._jobs[key] = Job(rule, key[1], params, inputs, tuple(self._outputs(rule, wildcards)))
        return self._jobs[key]

    def maker(self, path: str) -> Job | None:
        """The job that makes a file; None for a source."""
        training = not path.startswith(f"{self.pathvars['results']}/")
        if training not in self._patterns:
            self._patterns[training] = list(self._output_patterns(training=training))
        for rule, expression in self._patterns[training]:
            if match := expression.fullmatch(path):
                return self.job(rule, match.groupdict())
        return None

    def jobs(self, targets: Sequence[str] = TARGETS) -> list[Job]:
        """All jobs that the targets need, also through others."""
        found: dict[tuple[str, Any], Job] = {}
        waiting = deque(self._text(target, {}) for target in targets)
        seen = set(waiting)
        while waiting:
            job = self.maker(waiting.popleft())
            if job is None or (job.rule, job.wildcards) in found:
                continue
            found[job.rule, job.wildcards] = job
            waiting.extend(path for path in job.paths if path not in seen)
            seen.update(job.paths)
        return list(found.values())


@functools.cache
def current_versions() -> dict[str, int]:
    """The version of every stage."""
    return {name: importlib.import_module(f"everypoint.stages.{name}").VERSION for name in STAGES}


def targets_of(plan: Plan) -> list[str]:
    """What a plan is for: the report of its videos, if there are any, and all of PIPs++ if it names data for that."""
    from everypoint.stages.plan_pips import trains

    workflow = Workflow(plan)
    targets = list(TARGETS) if plan.entries else []
    return targets + ([workflow.pattern(rule) for rule in OF_TRAINING] if trains(plan.config) else [])


def jobs_of(plan: Plan, targets: Sequence[str] | None = None, versions: dict[str, int] | None = None) -> list[Job]:
    """The jobs that the targets of a plan need."""
    return Workflow(plan, versions).jobs(targets_of(plan) if targets is None else targets)


def downstream(jobs: Sequence[Job], first: set[Job]) -> set[Job]:
    """``first`` and every job that reads, also through others, what they write."""
    found, written = set(first), {path for job in first for path in job.outputs}
    while True:
        more = {job for job in jobs if job not in found and written.intersection(job.paths)}
        if not more:
            return found
        found |= more
        written |= {path for job in more for path in job.outputs}


def rerun(before: Sequence[Job], after: Sequence[Job]) -> set[Job]:
    """The jobs of ``after`` that run when all of ``before`` are done: new, changed, or behind one of those."""
    known = set(before)
    made = {job.outputs: job for job in before}
    changed = {job for job in after if job not in known}
    for job in after:  # the order of inputs says nothing
        old = made.get(job.outputs)
        if (
            job in changed
            and old
            and (old.rule, old.params) == (job.rule, job.params)
            and set(old.paths) == set(job.paths)
        ):
            changed.discard(job)
    return downstream(after, changed)

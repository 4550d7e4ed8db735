"""Every key of the configuration, changed alone: what would run again is what everypoint/config/reruns.yaml says.

The table was written from what stages read; here the plan is asked, by the text of the rules (tests/jobs.py).
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin
from unittest import mock

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.config.load import deep_merge
from everypoint.config.options import FramesOptions, Preset, QueryOptions
from everypoint.config.recipes import load_recipe
from everypoint.config.reruns import Row, keys, rows
from everypoint.config.user import Config
from everypoint.errors import EverypointError
from everypoint.stages import plan_jobs
from everypoint.stages.plan import STAGES, Plan, make_plan
from everypoint.stages.plan_pips import trains
from everypoint.video.sizes import Size
from tests.jobs import TARGETS, Job, downstream, jobs_of, rerun, rule_texts, targets_of

SIZE = Size(300, 480, 854)  # of every video: enough for several jobs where all pairs are computed
PLACES = {"flow": {"backend": "processed", "folder": "old"}, "features": {"backend": "processed", "folder": "old"}}
SPARSE = {"flow": {"backend": "none"}, "readout": {"fuse": False}}
TRACKS = {"sources": ["tracks", "processed"], "tracks": {"file": "t.npz"}, "processed": {"folder": "old"}}
OWN = {"data": "clips", "source": "clips", "batch": 2}
EVERY = {
    "export": {"root": "pod"},
    "test": {"tapvid": "a.pkl", "crohd": "ht21", "odyssey": "pod", "weights": "finetune"},
}


class Context(NamedTuple):
    """A configuration of one preset, over one video."""

    preset: str
    overrides: Mapping[str, Any] = {}
    user: Mapping[str, Any] = {}
    annotated: bool = False


CONTEXTS = {
    **{name: Context(name) for name in ("chain", "chain-multi", "cotracker", "pips2", "omnimotion", "cadex-nomatch")},
    "cpu": Context("cpu", annotated=True),
    "plain walk": Context("chain-multi", {"features": {"backend": "none"}}),
    "no prior": Context("cadex-nomatch", {"depth": {"backend": "none"}}),
    "fast": Context("fast"),
    "lite": Context("omnimotion-lite"),
    "hash": Context("omnimotion", {"model": {"field": {"network": "hash"}}, "optimize": {"decay": "cosine"}}),
    "pixels": Context("omnimotion-depth", {"features": {"backend": "none"}}),
    "cadex": Context("cadex", {"model": {"cadex": {"camera": "orthographic"}}, "optimize": {"decay": "cosine"}}),
    "dis": Context("cpu", {"flow": {"backend": "dis", "pairs": {"plan": "window"}}, "features": {"backend": "vit"}}),
    "processed": Context("cpu", PLACES, {"overlay": {"enabled": False}}),
    "fused off": Context("cpu", {"readout": {"fuse": False}, "depth": {"backend": "constant"}}),
    "file": Context("cadex", {"depth": {"backend": "file", "folder": "old"}, "matches": {"depth_mask": False}}),
    "xfeat": Context(
        "cpu", deep_merge(SPARSE, {"sparse": {"sources": ["xfeat", "cotracker"]}, "depth": {"backend": "file"}})
    ),
    "tracks": Context("cadex", deep_merge(SPARSE, {"sparse": TRACKS | {"appearance_threshold": 0.1}})),
    "mutual": Context(
        "cpu",
        deep_merge(SPARSE, {"sparse": {"sources": ["mutual"]}, "depth": {"backend": "constant"}}),
        {"frames": {"on_cut": "ignore", "resize": [64, 64]}},
    ),
    "all sources": Context(
        "cpu",
        {
            "sparse": {
                "sources": ["mutual", "cotracker"], "appearance_threshold": 0.1,
                "mutual": {"features": {"resize": "omnimotion"}},
            },
            "cotracker": {"cycle_check": False}, "depth": {"backend": "depth-anything"},
        },
        {"overlay": {"enabled": False}},
        annotated=True,
    ),
    "mutual processed": Context("cpu", {"sparse": {"sources": ["mutual"], "mutual": {"features": PLACES["features"]}}}),
    "dataset": Context("chain", {}, {"videos": None, "dataset": "a.pkl"}, annotated=True),
    "split": Context("chain", {}, {"frames": {"on_cut": "split"}}),
    "training": Context("chain", {}, {"pips": EVERY}),
    "training of one's own": Context(
        "chain", {}, {"pips": {"train": {"weights": "w", "source": "clips"}, "finetune": OWN}}
    ),
}  # fmt: skip
# Where no value could be made up.
VALUES = {
    "jobs.minutes": 0.001,
    "videos": "elsewhere",
    "dataset": "b.pkl",
    "pips.train.weights": "mine.pth",
    "pips.finetune.weights": "mine.pth",
}
SPECIAL = ("overrides", "methods", "per_video.NAME.frames", "per_video.NAME.queries")  # tests of their own
USER_CONTEXTS = (
    "cpu",
    "chain",
    "all sources",
    "mutual",
    "processed",
    "split",
    "dataset",
    "training",
    "training of one's own",
)


# --------------------------------------------------------------------------------------------- other values


def nested(key: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` of ``a.b``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("a.b", value)``; mappings that are values themselves, such as overrides, come whole besides."""
    for key, item in value.items():
        yield f"{prefix}{key}", item
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{key}.")


def annotation_of(model: Any, key: str) -> Any:
    """What the field of a key may hold."""
    for part in key.split("."):
        annotation = model.model_fields[part].annotation
        model = annotation
    return annotation


def choices(annotation: Any) -> list[Any]:
    """All words of the ``Literal`` in an annotation."""
    found = list(get_args(annotation)) if get_origin(annotation) is Literal else []
    return found + [
        item for part in get_args(annotation) if get_origin(annotation) is not Literal for item in choices(part)
    ]


def kinds(annotation: Any) -> set[Any]:
    return {annotation} | {kind for part in get_args(annotation) for kind in kinds(part)}


def others(value: Any, annotation: Any) -> Iterator[Any]:
    """Values that a key might hold instead; which of them are valid is for the models to say."""
    if isinstance(value, bool):
        yield not value
    elif words := choices(annotation):
        plain = [word for word in words if word != value]
        yield from ([[word] for word in plain] if isinstance(value, (tuple, list)) else plain)
    elif isinstance(value, int):
        yield from (value + 1, value + 8, value - 1, value * 2)
    elif isinstance(value, float):
        yield from (value * 1.5, value * 0.5, value + 0.25)
    elif isinstance(value, str):
        yield value + "x"
    elif isinstance(value, (tuple, list)):
        yield from ([item + 8 for item in value], [*value, 99], [item * 1.5 for item in value])
    elif value is None:
        yield from (
            [40, 48] if kind is tuple or get_origin(kind) is tuple else None
            for kind in [annotation, *get_args(annotation)]
        )
        yield from (7 if int in kinds(annotation) else None, 0.5 if float in kinds(annotation) else None, "x")


def new_values(key: str, value: Any, annotation: Any, table: tuple[Row, ...]) -> Iterator[list[Any]]:
    """The changes to be tried: every one that the table speaks of, and where it speaks of any change, one made up.

    Each is a list of candidates of which the first valid one counts.
    """
    own = [row for row in table if key in row.keys]
    for to in dict.fromkeys(to for row in own for to in row.to):
        if isinstance(to, str) and to.startswith("+"):
            yield [[*value, to[1:]]] if to[1:] not in value else []
        else:
            yield [to] if to != value else []
    if any(not row.to for row in own):
        yield (
            [VALUES[key]]
            if key in VALUES
            else [item for item in others(value, annotation) if item not in (None, value)]
        )


# ----------------------------------------------------------------------------------------------- comparison


def chosen(runs: tuple[str, ...], jobs: list[Job]) -> set[Job]:
    """The jobs of the stages that a row names."""
    readers: dict[str, set[str]] = {}
    for job in jobs:
        for path in job.paths:
            readers.setdefault(path, set()).add(job.rule)
    of_mutual, own = set(), set()
    for job in jobs:
        if job.rule == "features":
            rules = set().union(*(readers.get(path, set()) for path in job.outputs))
            of_mutual |= {job.value("key")} if "sparse" in rules else set()
            own |= {job.value("key")} if rules - {"sparse"} else set()
    of_rival = {path for job in jobs for name, path in job.inputs if name == "rival"}
    found = set()
    for run in runs:
        rule, _, part = run.partition("/")
        for job in jobs:
            if rule == "features":
                is_it = job.rule in ("features", "features_part") and job.value("key") in (of_mutual if part else own)
            elif rule == "flow":
                whose = "the rival" if of_rival.intersection(job.outputs) else "the first network"
                is_it = job.rule == rule and part in ("", whose)
            else:
                is_it = job.rule == rule and (
                    not part or part in (job.value("key").split("-")[0], job.value("testset"))
                )
            if is_it:
                found.add(job)
    return found


def named(jobs: set[Job]) -> list[str]:
    return sorted({" ".join([job.rule, *(value for key, value in job.wildcards if key != "shard")]) for job in jobs})


class Difference(NamedTuple):
    context: str
    change: str
    expected: list[str]
    found: list[str]


@dataclasses.dataclass
class Findings:
    """What came of all changes."""

    differences: list[Difference] = dataclasses.field(default_factory=list)
    tried: dict[str, int] = dataclasses.field(default_factory=dict)
    exercised: set[tuple[str, int, str]] = dataclasses.field(default_factory=set)  # (section, row, stage)
    settled: set[str] = dataclasses.field(default_factory=set)  # keys that ran nothing where a row is silent

    def compare(
        self, context: str, section: str, key: str, value: Any, values: dict, before: list, after: list
    ) -> None:
        held = [(number, row) for number, row in enumerate(rows(section)) if key in row.keys and row.holds(values)]
        held = [(number, row) for number, row in held if not row.to or said(value, row)]
        expected = set()
        for number, row in held:
            for run in row.runs:
                picked = chosen((run,), after)
                if picked:
                    self.exercised.add((section, number, run))
                expected |= picked
        expected, found = downstream(after, expected), rerun(before, after)
        self.tried[key] = self.tried.get(key, 0) + 1
        if expected != found:
            self.differences.append(Difference(context, f"{key}: {value}", named(expected), named(found)))


def said(value: Any, row: Row) -> bool:
    """Whether a row for some new values is for this one."""
    return any(
        value == to or (isinstance(value, list) and str(to).startswith("+") and value[-1:] == [to[1:]]) for to in row.to
    )


def plan_of(context: Context, user: Mapping[str, Any] = {}) -> Plan:
    value = {"methods": [context.preset], "videos": "annotated" if context.annotated else "plain"}
    overrides = {context.preset: dict(context.overrides)}
    return make_plan(deep_merge(deep_merge(value | {"overrides": overrides}, context.user), user), "test.yaml")


def facts(plan: Plan, context: Context) -> dict[str, Any]:
    (preset,) = plan.presets.values()
    values = dict(flat(plan.config.model_dump(mode="json"))) | dict(flat(preset.model_dump(mode="json")))
    return values | {"video": "annotated" if context.annotated else "plain", "pips": trains(plan.config)}


def try_preset(findings: Findings, name: str, context: Context) -> None:
    plan = plan_of(context)
    before, values = jobs_of(plan, TARGETS), facts(plan, context)
    (preset,) = plan.presets.values()
    base = preset.model_dump(mode="json")
    for key in keys("preset"):
        for candidates in new_values(key, values[key], annotation_of(Preset, key), rows("preset")):
            for value in candidates:
                try:
                    changed = Preset.model_validate(deep_merge(base, nested(key, value)))
                except ValueError:
                    continue
                after = jobs_of(dataclasses.replace(plan, presets={context.preset: changed}), TARGETS)
                findings.compare(name, "preset", key, value, values, before, after)
                break


def try_user(findings: Findings, name: str, context: Context) -> None:
    plan = plan_of(context)
    targets = targets_of(plan)
    before, values = jobs_of(plan, targets), facts(plan, context)
    recipes = {part: load_recipe(part, plan.config.pips.model_dump()[part]) for part in ("train", "finetune")}
    values |= {
        f"pips.{part}.{leaf}": value for part, recipe in recipes.items() for leaf, value in recipe.model_dump().items()
    }
    for key in keys("user"):
        if key in SPECIAL:
            continue
        *head, leaf = key.split(".")
        recipe = recipes.get(head[-1]) if head[:1] == ["pips"] else None
        old = values[key]
        annotation = type(recipe).model_fields[leaf].annotation if recipe else annotation_of(Config, key)
        if (key.startswith("pips.") and not values["pips"]) or (key in ("videos", "dataset") and old is None):
            continue
        for candidates in new_values(key, list(old) if isinstance(old, tuple) else old, annotation, rows("user")):
            for value in candidates:
                try:
                    after = jobs_of(plan_of(context, nested(key, value)), targets)
                except EverypointError:
                    continue
                findings.compare(name, "user", key, value, values, before, after)
                break


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three folders of one video each, of the same name; nothing here is ever opened."""
    root = tmp_path_factory.mktemp("reruns")
    for name in ("annotated", "plain", "elsewhere"):
        (root / name).mkdir()
        (root / name / "a.mp4").write_bytes(b"a")
    points = np.zeros((1, 3, 2), np.float32)
    atomic.save_npz(root / "annotated" / "a.annotations.npz", points=points, occluded=np.zeros((1, 3), bool))
    track = {"points": points, "occluded": np.zeros((1, 3), bool), "video": np.zeros((3, 8, 8, 3), np.uint8)}
    for name in ("a", "b"):
        (root / f"{name}.pkl").write_bytes(pickle.dumps({"b": track}))
    for number in range(3):
        (root / "old" / "color").mkdir(parents=True, exist_ok=True)
        (root / "old" / "color" / f"{number}.png").write_bytes(b"0")
    (root / "pod" / "train" / "s" / "rgbs").mkdir(parents=True)
    (root / "pod" / "train" / "s" / "anno.npz").touch()
    for number in range(300):
        (root / "pod" / "train" / "s" / "rgbs" / f"{number}.jpg").touch()
    for name in ("results", "resultsx"):
        atomic.write_json(root / name / "a/shots/shots.json", {"shots": [[0, 100], [100, 200]]})
    return root


@pytest.fixture(scope="module")
def findings(folder):
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr(plan_jobs, "source_sizes", lambda entries, cache=None: {entry.name: SIZE for entry in entries})
    found = Findings()
    for name, context in CONTEXTS.items():
        try_preset(found, name, context)
    for name in USER_CONTEXTS:
        try_user(found, name, CONTEXTS[name])
    patch.undo()
    return found


# ---------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("section", ["user", "preset"])
def test_the_table_has_every_key_and_no_other(section):
    listed = [key for row in rows(section) for key in row.keys]
    assert sorted(set(listed)) == sorted(keys(section))


def test_every_key_runs_what_the_table_says(findings):
    shown = [
        f"{one.context}: {one.change}\n    table {one.expected}\n    plan  {one.found}" for one in findings.differences
    ]
    assert not shown, f"{len(shown)} differ\n" + "\n".join(shown)


def test_every_key_was_changed(findings):
    assert set(findings.tried) == {*keys("user"), *keys("preset")} - set(SPECIAL)


def test_every_row_was_put_to_the_test(findings):
    wanted = {
        (section, number, run)
        for section in ("user", "preset")
        for number, row in enumerate(rows(section))
        for run in row.runs
        if not set(row.keys) <= set(SPECIAL)
    }
    missing = wanted - findings.exercised
    assert not {(section, rows(section)[number].keys, run) for section, number, run in missing}


# ------------------------------------------------------------------------- what no single row can be tested for


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plan_jobs, "source_sizes", lambda entries, cache=None: {entry.name: SIZE for entry in entries})
    (folder / "two").mkdir(exist_ok=True)
    for name in ("a", "b"):
        (folder / "two" / f"{name}.mp4").write_bytes(b"a")


def jobs(**keys: Any) -> list[Job]:
    return jobs_of(make_plan({"videos": "two", "methods": ["chain"], **keys}, "test.yaml"))


SECTIONS = {"frames": FramesOptions, "queries": QueryOptions}
PER_VIDEO = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


@pytest.mark.parametrize(("section", "key"), PER_VIDEO)
def test_a_key_of_one_video_runs_the_same_stages_of_that_video_alone(here, section, key):
    model = SECTIONS[section]
    value = next(others(getattr(model(), key), model.model_fields[key].annotation), None)
    value = [64, 64] if key == "resize" else 7 if value is None else "ignore" if key == "on_cut" else value
    before = jobs()
    for_all, for_one = jobs(**{section: {key: value}}), jobs(per_video={"b": {section: {key: value}}})
    everywhere, alone = named(rerun(before, for_all)), named(rerun(before, for_one))
    assert len(alone) > 3
    assert alone == [name for name in everywhere if name.split()[-1] != "a"]


def test_a_preset_that_is_added_runs_what_no_other_has_made(here):
    before = jobs(methods=["chain-multi"])
    added = {"flow", "matches", "optimize", "tracks", "overlay", "report"}  # the flow of cpu's rival
    assert {job.rule for job in rerun(before, jobs(methods=["chain-multi", "cpu"]))} == added
    assert {job.rule for job in rerun(jobs(methods=["chain-multi", "cpu"]), before)} == {"report"}


def test_a_video_that_is_taken_away_leaves_the_report(here, folder):
    before = jobs()
    (folder / "two" / "a.mp4").unlink()
    assert named(rerun(before, jobs())) == ["report"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_raised_version_runs_that_stage_and_what_follows(here, stage):
    keys = {
        "methods": ["cadex"], "videos": "annotated", "frames": {"on_cut": "split" if stage == "shots" else "warn"},
        "per_video": {}, "exports": ["nuke"],
    }  # fmt: skip
    plan = make_plan(keys, "test.yaml")
    before, after = jobs_of(plan), jobs_of(plan, versions={stage: 99})
    its = {job for job in after if job.rule in (stage, f"{stage}_part")}
    assert its
    assert rerun(before, after) == downstream(after, its)


def test_every_rule_but_those_without_options_carries_a_version():
    bare = {name for name, rule in rule_texts().items() if "version" not in eval(rule.params, Anything())[1]}
    assert bare == {"pips_clips", "pips_export", "pips_test"}  # they do what their inputs say


class Anything(dict):
    """A namespace in which every name means something."""

    def __missing__(self, name: str) -> Any:
        return (lambda *args, **kwargs: (args, kwargs)) if name == "_arguments" else mock.MagicMock()

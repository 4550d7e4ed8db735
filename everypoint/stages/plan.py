"""What the Snakefile asks: the videos, their options, and which file comes from which.

Everything here is plain and quick: no video is opened and no torch is imported, because every Snakemake process,
also that of a cluster job, starts by making the plan.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.config.load import nearest, parse_config
from everypoint.config.options import FramesOptions, Preset, QueryOptions
from everypoint.config.presets import load_preset
from everypoint.config.user import Config
from everypoint.errors import ConfigError, InputError
from everypoint.stages import relevant
from everypoint.stages.plan_jobs import JobsPlan
from everypoint.stages.plan_pips import trains
from everypoint.video.content import content_listing
from everypoint.video.discover import Entry, discover

CACHE = ".snakemake/everypoint"  # of the working directory: what plans remember
STAGES = (
    "shots",
    "frames",
    "queries",
    "flow",
    "features",
    "depth",
    "sparse",
    "matches",
    "optimize",
    "tracks",
    "overlay",
    "export",
    "evaluate",
    "report",
)
SHOT = re.compile(r"^(?P<parent>.+)-shot(?P<number>\d{2,4})$")


@dataclass(frozen=True)
class Plan(JobsPlan):
    """The workflow of one configuration over the videos that were found.

    Methods that take ``wildcards`` are input and parameter functions of rules; they return paths or plain values.
    """

    config: Config
    entries: Mapping[str, Entry]
    presets: Mapping[str, Preset]
    cache: Path | None = None

    # -------------------------------------------------------------------------------------------- videos

    @functools.cached_property
    def results(self) -> str:
        """The folder of results, normalised as Snakemake writes paths."""
        return os.path.normpath(os.path.expanduser(self.config.results))

    @property
    def videos(self) -> list[str]:
        """Names of the videos found, before any is split into shots."""
        return list(self.entries)

    def is_split(self, video: str) -> bool:
        """Whether the shots of ``video`` become entries of their own."""
        return self.frames_of(video).on_cut == "split"

    def parent(self, name: str) -> tuple[str, int]:
        """The video that ``name`` comes from and its shot, counted from 1; 0 for a whole video."""
        if name in self.entries:
            return name, 0
        match = SHOT.match(name)
        if match is None or match["parent"] not in self.entries:
            raise InputError(f"there is no video {name!r}", cure=nearest(name, self.entries))
        return match["parent"], int(match["number"])

    def shots(self, video: str, listing: str | os.PathLike[str]) -> list[str]:
        """Names of the shots that ``shots.json`` lists."""
        count = len(atomic.read_json(listing)["shots"])
        return [f"{video}-shot{number:02d}" for number in range(1, count + 1)]

    def frames_of(self, name: str) -> FramesOptions:
        """Frame options of a video or shot; a shot's own keys lie over its video's."""
        return self._section("frames", name)

    def queries_of(self, name: str) -> QueryOptions:
        """Query options of a video or shot."""
        return self._section("queries", name)

    def _section(self, section: str, name: str) -> Any:
        options = getattr(self.config, section)
        for key in dict.fromkeys((self.parent(name)[0], name)):
            own = self.config.per_video.get(key)
            if own is not None and getattr(own, section):
                changed = options.model_dump() | dict(getattr(own, section))
                options = type(options).model_validate(changed)
        return options

    def is_annotated(self, name: str) -> bool:
        """Whether there is ground truth to measure against."""
        entry = self.entries[self.parent(name)[0]]
        return entry.kind == "tapvid" or entry.annotations is not None

    # ----------------------------------------------------------------------------- rules: frames, queries

    def entry(self, wildcards: Any) -> dict[str, str]:
        """The entry as plain values; folders of images carry a digest, see :mod:`everypoint.video.content`."""
        entry = self.entries[self.parent(wildcards.video)[0]]
        value = {"name": wildcards.video, "kind": entry.kind, "path": str(entry.path), "key": entry.key}
        beside = {name: getattr(entry, name) for name in ("annotations", "queries", "mask")}
        value |= {name: str(path) for name, path in beside.items() if path is not None}
        folders = tuple(path for path in (entry.path, entry.mask) if path is not None and path.is_dir())
        if folders and folders not in self._listings:
            self._listings[folders] = content_listing(folders, self.cache)
        return value | ({"listing": self._listings[folders]} if folders else {})

    @functools.cached_property
    def _listings(self) -> dict[tuple[Path, ...], str]:
        """Of folders that were asked about: several rules ask, and in one plan they get one answer."""
        return {}

    def source(self, wildcards: Any) -> dict[str, str]:
        """Inputs of rule frames: the source and, for a shot, where the video is cut."""
        video, shot = self.parent(wildcards.video)
        inputs = {"source": str(self.entries[video].path)}
        return inputs | ({"shots": self.path(video, "shots/shots.json")} if shot else {})

    def whole_source(self, wildcards: Any) -> str:
        """Input of checkpoint shots."""
        return str(self.entries[wildcards.video].path)

    def shot(self, wildcards: Any) -> int:
        """Which shot of its video this is, from 1; 0 for a whole video."""
        return self.parent(wildcards.video)[1]

    def frames_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rules shots and frames, without keys that others put out of use."""
        options = self.frames_of(wildcards.video)
        unread = {"max_side"} if options.resize is not None else set()
        unread |= {"cut_threshold"} if options.on_cut == "ignore" else set()
        return options.model_dump(mode="json", exclude=unread)

    def sampling_options(self, wildcards: Any) -> dict[str, Any]:
        """Which queries ground truth gives, where there is some; parameters of rules queries and evaluate."""
        return self.config.evaluate.model_dump(mode="json") if self.is_annotated(wildcards.video) else {}

    def query_inputs(self, wildcards: Any) -> dict[str, str]:
        """Inputs of rule queries: the frames and the files beside the video."""
        entry = self.entries[self.parent(wildcards.video)[0]]
        inputs = {"frames": self.path(wildcards.video, "frames/frames.npy")}
        inputs["meta"] = self.path(wildcards.video, "frames/video.json")
        if entry.kind == "tapvid":
            inputs["annotations"] = str(entry.path)
        for name in ("annotations", "queries", "mask"):
            path = getattr(entry, name)
            if path is not None and not (name == "mask" and self.queries_of(wildcards.video).mask == "ignore"):
                inputs[name] = str(path)
        return inputs

    def query_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule queries."""
        return self.queries_of(wildcards.video).model_dump(mode="json")

    # ----------------------------------------------------------------------------- rules: optimize, tracks

    def optimize_inputs(self, wildcards: Any) -> dict[str, str]:
        """Inputs of rule optimize."""
        preset = self.presets[wildcards.preset]
        key = relevant.matches_key(preset)
        return self.depth_prior(wildcards.video, preset) | {
            "frames": self.path(wildcards.video, "frames/frames.npy"),
            "meta": self.path(wildcards.video, "frames/video.json"),
            "matches": self.path(wildcards.video, f"matches/{key}/matches.npz"),
        }

    def optimize_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule optimize."""
        return relevant.optimize(self.presets[wildcards.preset])

    def tracks_inputs(self, wildcards: Any) -> dict[str, Any]:
        """Inputs of rule tracks: what the preset's kind of tracker reads."""
        video, preset = wildcards.video, self.presets[wildcards.preset]
        inputs: dict[str, Any] = {
            "frames": self.path(video, "frames/frames.npy"),
            "meta": self.path(video, "frames/video.json"),
            "queries": self.path(video, "queries/queries.npz"),
        }
        if preset.tracker == "chain":
            return inputs | {"flow": self.flow_folders(video, preset.flow)}
        if preset.tracker == "optimize":
            inputs["model"] = self.path(video, f"optimize/{wildcards.preset}/model.pt")
        if preset.walks:
            inputs |= self.flows_and_features(video, preset) | self.rival_flows(video, preset)
        return inputs

    def tracks_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule tracks."""
        return relevant.tracks(self.presets[wildcards.preset])

    # ------------------------------------------------------------------------------------------- results

    def overlay_inputs(self, wildcards: Any) -> dict[str, Any]:
        """Inputs of rule overlay."""
        video, preset = wildcards.video, wildcards.preset
        return {
            "frames": self.path(video, "frames/frames.npy"),
            "meta": self.path(video, "frames/video.json"),
            "tracks": self.path(video, f"tracks/{preset}/tracks.npz"),
        }

    def overlay_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule overlay."""
        return self.config.overlay.model_dump(mode="json", exclude={"enabled"})

    def report_options(self) -> dict[str, Any]:
        """Parameters of rule report."""
        return self.config.report.model_dump(mode="json")

    def path(self, video: str, name: str) -> str:
        """A path in the results of ``video``."""
        return f"{self.results}/{video}/{name}"

    def products(self, names: Iterable[str]) -> list[str]:
        """Every file of these videos that the report shows."""
        return [self.path(name, item) for name in names for item in self.made(name)]

    def made(self, name: str) -> list[str]:
        """The same of one video, relative to its folder."""
        return ["frames/video.json", *(item for preset in self.presets for item in self._made_by(preset, name))]

    def _made_by(self, preset: str, name: str) -> list[str]:
        found = [f"tracks/{preset}/tracks.npz"]
        if self.config.overlay.enabled:
            found += [f"overlay/{preset}/overlay.mp4", f"overlay/{preset}/trails.mp4"]
        found += [f"export/{preset}/{kind}" for kind in self.config.exports]
        if self.is_annotated(name):
            found.append(f"evaluate/{preset}/metrics.json")
        if self.presets[preset].tracker == "optimize":
            found.append(f"matches/{relevant.matches_key(self.presets[preset])}/filter.json")
            found.append(f"optimize/{preset}/train.jsonl")
        return found

    def report_presets(self) -> dict[str, Any]:
        """Of each preset: its options, the key of its matches (or None), and the names of its jobs' logs."""
        return {name: self._report_preset(name, preset) for name, preset in self.presets.items()}

    def _report_preset(self, name: str, preset: Preset) -> dict[str, Any]:
        matches = relevant.matches_key(preset) if preset.tracker == "optimize" else None
        logs = self.correspondence_logs(preset)
        if matches:
            logs += [f"matches.{matches}", f"optimize.{name}"]
        logs += [f"{rule}.{name}" for rule in ("tracks", "overlay", "evaluate")]
        logs += [f"export.{name}.{kind}" for kind in self.config.exports]
        return {"preset": relevant.reported(preset), "matches": matches, "logs": logs}

    def runtime(self) -> dict[str, Any]:
        """What jobs need to know but their results do not depend on; goes into Snakemake's config."""
        return {
            "device": self.config.device,
            "per_gpu": self.config.jobs.per_gpu,
            "assets": _expanded(self.config.assets),
            **relevant.runtime(dict(self.presets)),
        }


def make_plan(value: Mapping[str, Any], source: str, cache: str | os.PathLike[str] | None = None) -> Plan:
    """The plan of a user's keys; raises :class:`ConfigError` or :class:`InputError` with one sentence.

    Args:
        value: the keys as read from YAML.
        source: the name of the file they come from, for messages.
        cache: folder that remembers data sets' entries, sizes and names of videos, and what folders of images held.
    """
    config = parse_config(value, source)
    presets = {name: load_preset(name, config.overrides, source) for name in config.methods}
    sources = _sources(config)
    results = Path(os.path.expanduser(config.results))
    found = discover(*sources, _path(cache), results) if any(sources) or not trains(config) else []
    entries = {entry.name: entry for entry in found}
    for name in config.per_video:
        match = SHOT.match(name)
        if name not in entries and not (match and match["parent"] in entries):
            raise ConfigError(f"{source}: per_video has the unknown video {name!r}, {nearest(name, entries)}")
    return Plan(config, entries, presets, _path(cache))


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)


def _sources(config: Config) -> tuple[Path | None, Path | None]:
    """The folder of videos and the TAP-Vid file of a configuration.

    Beside a data set, or when it is PIPs++ that is trained or tested, the folder of the default name need not be there.
    A data set may itself be a folder of image folders (DAVIS 2017), which then is the folder of videos.
    """
    videos = _path(os.path.expanduser(config.videos) if config.videos else None)
    if trains(config) and config.videos == Config.model_fields["videos"].default and not videos.exists():
        videos = None
    if not config.dataset:
        return videos, None
    if config.videos == Config.model_fields["videos"].default and not videos.exists():
        videos = None
    from everypoint.assets.datasets import dataset_path

    dataset = Path(dataset_path(config.dataset, _expanded(config.assets)))
    if dataset.is_file() or any(dataset.glob("*_of_*.pkl")):
        return videos, dataset
    if videos is not None:
        raise ConfigError(f"data set {config.dataset} is a folder of images", cure="set videos to null beside it")
    return dataset, None


def _expanded(folder: str | None) -> str | None:
    return os.path.expanduser(folder) if folder else None


def stage_versions() -> dict[str, int]:
    """The version of every stage, by rule."""
    return {name: importlib.import_module(f"everypoint.stages.{name}").VERSION for name in STAGES}

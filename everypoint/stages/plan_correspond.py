"""The part of the plan between frames and optimiser: flow, features, depth, sparse sources, matches."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions, Preset
from everypoint.stages import relevant
from everypoint.video.content import listing
from everypoint.video.discover import Entry

_PROCESSED_FLOW = ("raft_exhaustive", "raft_masks", "full_mask", "color")  # folders whose names and sizes count
_PROCESSED_FEATURES = ("features/dino", "dinov2/featmap", "color")


class _Videos(Protocol):
    """What this part needs of the whole plan."""

    entries: Mapping[str, Entry]
    presets: Mapping[str, Preset]

    @property
    def gpus(self) -> int: ...

    def path(self, video: str, name: str) -> str: ...

    def parent(self, name: str) -> tuple[str, int]: ...

    def flow_shards(self, video: str, options: FlowOptions) -> int: ...

    def features_shards(self, video: str, options: FeatureOptions) -> int: ...


class CorrespondencePlan(_Videos):
    """Input and parameter functions of the rules flow, features, depth, sparse and matches."""

    # ---------------------------------------------------------------------------------------------- flow

    @functools.cached_property
    def _flows(self) -> dict[str, FlowOptions]:
        used = [options for preset in self.presets.values() for options in relevant.flows(preset)]
        return {relevant.flow_key(options): options for options in used}

    def flow_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule flow."""
        return relevant.flow(self._flows[wildcards.key])

    def flow_inputs(self, wildcards: Any) -> dict[str, str]:
        """Inputs of rule flow; only a plan with direct pairs depends on where the queries lie."""
        inputs = self._frames(wildcards.video)
        if self._flows[wildcards.key].pairs.direct:
            inputs["query_frames"] = self.path(wildcards.video, "queries/query_frames.json")
        return inputs

    def flow_place(self, wildcards: Any) -> dict[str, str] | None:
        """The folder that flows are read from; None where they are computed."""
        options = self._flows[wildcards.key]
        if options.backend != "processed":
            return None
        return self._place(wildcards.video, options.folder, _PROCESSED_FLOW)

    def flow_folders(self, video: str, options: FlowOptions) -> list[str]:
        """The shards of these flows; empty where there are none."""
        if options.backend == "none":
            return []
        count, key = self.flow_shards(video, options), relevant.flow_key(options)
        return [self.path(video, f"flow/{key}/{shard}of{count}") for shard in range(1, count + 1)]

    # ----------------------------------------------------------------------------------- features, depth

    @functools.cached_property
    def _features(self) -> dict[str, FeatureOptions]:
        presets = list(self.presets.values())
        used = [preset.features for preset in presets if preset.uses_features]
        used += [preset.sparse.mutual.features for preset in presets if relevant.reads_mutual(preset)]
        used.sort(key=lambda options: options.shards or 0)  # of those that share a file the largest number counts
        return {relevant.features_key(options): options for options in used if options.backend != "none"}

    def features_inputs(self, wildcards: Any) -> dict[str, Any]:
        """Inputs of rule features: the frames and, where several jobs share them, the parts that are joined."""
        return self._frames(wildcards.video) | self._feature_parts(wildcards)

    def features_gpus(self, wildcards: Any) -> int:
        """GPUs of rule features: none where it only joins parts."""
        return 0 if self._feature_parts(wildcards) else self.gpus

    def _feature_parts(self, wildcards: Any) -> dict[str, list[str]]:
        video, key = wildcards.video, wildcards.key
        count = self.features_shards(video, self._features[key])
        if count == 1:
            return {}
        folders = [self.path(video, f"features/{key}/{shard}of{count}") for shard in range(1, count + 1)]
        names = {"parts": "features.npy", "descriptions": "features.json"}
        return {kind: [f"{folder}/{name}" for folder in folders] for kind, name in names.items()}

    def features_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rules features and features_part."""
        return relevant.features(self._features[wildcards.key]) or {}

    def features_place(self, wildcards: Any) -> dict[str, str] | None:
        """The folder that features are read from; None where they are computed."""
        options = self._features[wildcards.key]
        if options.backend != "processed":
            return None
        return self._place(wildcards.video, options.folder, _PROCESSED_FEATURES)

    def _features_file(self, video: str, options: FeatureOptions) -> str:
        return self.path(video, f"features/{relevant.features_key(options)}/features.npy")

    @functools.cached_property
    def _depths(self) -> dict[str, DepthOptions]:
        found = (preset.depth for preset in self.presets.values() if preset.depth.backend != "none")
        return {relevant.depth_key(options): options for options in found}

    def depth_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule depth."""
        return relevant.depth(self._depths[wildcards.key]) or {}

    def depth_place(self, wildcards: Any) -> dict[str, str] | None:
        """The folder that depth maps are read from; None where they are computed."""
        options = self._depths[wildcards.key]
        if options.backend != "file":
            return None
        return self._place(wildcards.video, options.folder, (".", "raw_depth/depth"))

    def depth_prior(self, video: str, preset: Preset) -> dict[str, str]:
        """The depth prior that a preset's model starts from; empty where it starts from none."""
        return self._depth(video, preset) if preset.model.kind in relevant.WITH_PRIOR else {}

    def _depth_mask(self, video: str, preset: Preset) -> dict[str, str]:
        return self._depth(video, preset) if relevant.masks_depth(preset) else {}

    def _depth(self, video: str, preset: Preset) -> dict[str, str]:
        if preset.depth.backend == "none":
            return {}
        return {"depth": self.path(video, f"depth/{relevant.depth_key(preset.depth)}/depth.npy")}

    # ------------------------------------------------------------------------------------ sparse sources

    @functools.cached_property
    def _sparse(self) -> dict[str, tuple[Preset, str]]:
        return {
            relevant.sparse_key(preset, source): (preset, source)
            for preset in self.presets.values()
            if preset.tracker == "optimize"
            for source in preset.sparse.sources
        }

    def sparse_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule sparse."""
        preset, source = self._sparse[wildcards.key]
        return relevant.sparse(preset, source)

    def sparse_inputs(self, wildcards: Any) -> dict[str, str]:
        """Inputs of rule sparse: frames, and what its source reads besides."""
        (preset, source), video = self._sparse[wildcards.key], wildcards.video
        inputs = self._frames(video)
        if source == "mutual":
            inputs["features"] = self._features_file(video, preset.sparse.mutual.features)
            inputs |= self._depth_mask(video, preset)
        if source == "tracks":
            file = self._tracks_file(video, preset.sparse.tracks.file)
            inputs |= {"place": file} if Path(file).exists() else {}  # else its job says what is missing
        return inputs

    def sparse_place(self, wildcards: Any) -> dict[str, str] | None:
        """The file or folder that matches are read from; None for sources that compute them."""
        preset, source = self._sparse[wildcards.key]
        if source == "tracks":
            return {"path": self._tracks_file(wildcards.video, preset.sparse.tracks.file)}
        if source == "processed":
            return self._place(wildcards.video, preset.sparse.processed.folder, ("match", "color"))
        return None

    def _tracks_file(self, video: str, template: str | None) -> str:
        entry = self.entries[self.parent(video)[0]]
        if template is not None:
            return os.path.expanduser(template.replace("{video}", entry.name))
        if entry.kind == "tapvid":
            return ""
        source = self._folder_of(entry) or entry.path
        return str(source.with_name(f"{source.stem if source.is_file() else source.name}.tracks.npz"))

    # ------------------------------------------------------------------------------------------- matches

    @functools.cached_property
    def _matches(self) -> dict[str, Preset]:
        found = (preset for preset in self.presets.values() if preset.tracker == "optimize")
        return {relevant.matches_key(preset): preset for preset in found}

    def matches_inputs(self, wildcards: Any) -> dict[str, Any]:
        """Inputs of rule matches."""
        video, preset = wildcards.video, self._matches[wildcards.key]
        inputs: dict[str, Any] = {"meta": self.path(video, "frames/video.json")}
        inputs |= self.flows_and_features(video, preset)
        if preset.uses_flow:
            inputs |= self._depth_mask(video, preset)
        if preset.uses_flow and preset.matches.chain:
            inputs["frames"] = self.path(video, "frames/frames.npy")
        tables = [f"sparse/{relevant.sparse_key(preset, source)}/matches.npz" for source in preset.sparse.sources]
        return inputs | ({"sparse": [self.path(video, table) for table in tables]} if tables else {})

    def matches_options(self, wildcards: Any) -> dict[str, Any]:
        """Parameters of rule matches."""
        return relevant.matches(self._matches[wildcards.key])

    def flows_and_features(self, video: str, preset: Preset) -> dict[str, Any]:
        """What walks and filters read: the flows, and the features of the appearance check."""
        folders = self.flow_folders(video, preset.flow)
        inputs: dict[str, Any] = {"flow": folders} if folders else {}
        if preset.uses_features:
            inputs["features"] = self._features_file(video, preset.features)
        return inputs

    def rival_flows(self, video: str, preset: Preset) -> dict[str, list[str]]:
        """The flows of a second network, for walks; empty where there is none."""
        rival = relevant.rival(preset)
        return {"rival": self.flow_folders(video, rival)} if rival else {}

    def correspondence_logs(self, preset: Preset) -> list[str]:
        """Names of the logs of all that stands between the frames and a preset's matches or tracks.

        A name that ends in ``.*`` stands for those of all shards.
        """
        flows = relevant.flows(preset) if preset.uses_flow else []
        logs = [f"flow.{relevant.flow_key(options)}.*" for options in flows]
        if preset.uses_features:
            logs += _feature_logs(preset.features)
        if preset.tracker != "optimize":
            return logs
        starts_from_it = preset.model.kind in relevant.WITH_PRIOR and preset.depth.backend != "none"
        if relevant.masks_depth(preset) or starts_from_it:
            logs.append(f"depth.{relevant.depth_key(preset.depth)}")
        if "mutual" in preset.sparse.sources:
            logs += _feature_logs(preset.sparse.mutual.features)
        return logs + [f"sparse.{relevant.sparse_key(preset, source)}" for source in preset.sparse.sources]

    # --------------------------------------------------------------------------------- what users have

    def _frames(self, video: str) -> dict[str, str]:
        return {
            "frames": self.path(video, "frames/frames.npy"),
            "meta": self.path(video, "frames/video.json"),
        }

    def _place(self, video: str, template: str | None, parts: Sequence[str]) -> dict[str, str]:
        """A folder of the user's and a digest of its files, by names and sizes; ``{video}`` stands for the name.

        Without a template it is the video's own folder (that which holds ``color``); the path is empty where the video
        is no folder.
        """
        entry = self.entries[self.parent(video)[0]]
        if template is not None:
            folder = Path(os.path.expanduser(template.replace("{video}", entry.name)))
        else:
            own = self._folder_of(entry)
            if own is None:
                return {"path": "", "listing": ""}  # its job says what is missing; other videos go on
            folder = own
        present = [folder / part for part in parts if (folder / part).is_dir()]
        return {"path": str(folder), "listing": listing(present)}

    @staticmethod
    def _folder_of(entry: Entry) -> Path | None:
        """The folder of a video of images: the one that holds ``color``, or the images themselves."""
        if entry.kind != "images":
            return None
        from everypoint.video.processed_folder import own_folder  # needs an image library, which other plans do not

        return own_folder(entry.path)


def _feature_logs(options: FeatureOptions) -> list[str]:
    key = relevant.features_key(options)
    return [f"features_part.{key}.*", f"features.{key}"]

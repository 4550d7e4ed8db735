"""The part of :mod:`lent` about videos: every stage of some presets in one process, timed, and the tracks measured.

Stages are called as the workflow's scripts call them, with the parameters that its plan would give them
(:mod:`everypoint.stages.relevant`). The first video pays for the start of libraries.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lent_parts import Given, attempted, say

METHODS = ("chain-multi", "fast", "cadex-nomatch")
FIRST = ("chain-multi", "fast")  # of all videos, before the others of any: a cut then costs what takes longest
# after any of them the mean of chain-multi is near that of all eight: what is cut off tells little more
ORDER = ("dog", "car-roundabout", "horsejump-high", "bmx-trees", "soapbox", "goat", "libby", "camel")
NO_DINO = {"features": {"backend": "raft-encoder"}, "depth": {"backend": "constant"}}
NO_DINO |= {"matches": {"appearance_threshold": 0.3, "chain_appearance": 0.3, "depth_mask": False}}
SMALL = {
    "flow": {"iterations": 2, "pairs": {"intervals": [1, 2], "window": 2}},
    "matches": {"per_pair": 128},
    "model": {"blocks": 2, "plane_resolutions": [4, 12], "plane_channels": 8},
    "optimize": {"sampler": {"batch": 128}, "cadex": {"pairs": 2, "points": 32}},
}


def davis(given: Given) -> None:
    """Seconds of every stage and scores, by video and preset; then the means of each preset."""
    present = {path.name for path in (given.folder / "videos").iterdir() if path.is_dir()}
    names = [name for name in ORDER if name in present] + sorted(present - set(ORDER))
    scores: dict[str, list[dict[str, float]]] = {}
    rounds = [name for name in given.methods if name in FIRST], [name for name in given.methods if name not in FIRST]
    for methods in rounds:
        for name in names:
            for method in methods:
                work = functools.partial(_one, given, name, method, scores)
                attempted(f"{name} {method}", work, given)
    for method, found in scores.items():
        say(f"**{method}, mean of {len(found)}**: {_means(found)}", method=method, videos=len(found))


def _one(given: Given, name: str, method: str, scores: dict[str, list[dict[str, float]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(given, name, method, Path(folder))
        found = run.scores()
    scores.setdefault(method, []).append(found)
    spent = ", ".join(f"{stage} {value:.1f}" for stage, value in run.seconds.items())
    text = f"{name} {method}: {_means([found])}; seconds: {spent}{run.notes()}"
    say(text, video=name, method=method, seconds=run.seconds, training=run.training, scores=found)


def _means(found: list[dict[str, float]]) -> str:
    from everypoint.evaluate.protocol import mean_over_videos

    means, _ = mean_over_videos(found)
    names = {"average_jaccard": "AJ", "average_pts_within_thresh": "delta_avg", "occlusion_accuracy": "OA"}
    percents = [f"{short} {100 * means[key]:.1f}" for key, short in names.items()]
    return " ".join([*percents, f"TC {means['temporal_coherence']:.2f}"])


def preset_of(method: str, given: Given) -> Any:
    """The preset as published, but for weights: RAFT's, which were carried, stand in for those that are not here."""
    from everypoint.config.load import deep_merge
    from everypoint.config.presets import load_preset

    weights = {"weights": str((given.folder / "weights" / "raft.pth").resolve())}
    rival = given.folder / "weights" / "rival.pth"
    optimize: dict[str, Any] = {"tensorboard": False, "pictures": 0.0, "checkpoint_seconds": 1e6}
    optimize |= {"max_seconds": max(given.left, 1.0)}
    optimize |= {"steps": given.steps} if given.steps else {}
    competing = {} if rival.exists() else {"rival": None}
    if rival.exists() and load_preset(method).flow.rival:
        competing = {"rival": str(rival.resolve())}
    common = {"flow": weights | competing, "features": weights, "optimize": optimize}
    if given.tiny:
        common = deep_merge(SMALL, deep_merge(common, {"optimize": {"steps": given.steps or 4, "log_every": 2}}))
    own = NO_DINO if method.startswith(("cadex", "omnimotion")) else {}
    return load_preset(method, {"all": common, method: own})


class Run:
    """One preset on one video, in a folder that may go afterwards.

    Attributes:
        seconds: of each stage.
        training: steps done and planned, and the last held-out error; empty without an optimisation.
    """

    def __init__(self, given: Given, name: str, method: str, folder: Path) -> None:
        self.given, self.name, self.method, self.folder = given, name, method, folder
        self.preset = preset_of(method, given)
        self.seconds: dict[str, float] = {}
        self.training: dict[str, Any] = {}
        self._common = {"device": given.device, "threads": 1 if given.tiny else 8}
        self._inputs()

    def notes(self) -> str:
        """What is to be known of the optimisation."""
        if not self.training:
            return ""
        return "; {steps} of {planned} steps, held-out error {error}".format(**self.training)

    def _inputs(self) -> None:
        """The outputs of the stages frames and queries."""
        from everypoint.artifacts import atomic
        from everypoint.artifacts.video import VideoMeta, save_video
        from everypoint.evaluate.protocol import queries_from_annotations

        frames = pictures(self.given.folder / "videos" / self.name)
        count, height, width = frames.shape[:3]
        meta = VideoMeta(self.name, self.name, "carried", 24.0, count, height, width, height, width)
        save_video(self.folder / "frames", frames, meta)
        truth = atomic.load_npz(self.given.folder / "videos" / f"{self.name}.npz")
        queries, ids, _ = queries_from_annotations(truth["points"], truth["occluded"], ["strided"], 5, (height, width))
        self.annotations, self.queries, self.asked = (
            self.folder / name for name in ("annotations.npz", "queries.npz", "query_frames.json")
        )
        atomic.save_npz(self.annotations, points=truth["points"], occluded=truth["occluded"])
        atomic.save_npz(self.queries, queries=queries, query_ids=ids)
        atomic.write_json(self.asked, sorted({int(t) for t in queries[:, 0]}))
        self._frames = str(self.folder / "frames" / "frames.npy")

    def _timed(self, stage: str, run: Callable[..., None], **arguments: Any) -> None:
        started = time.perf_counter()
        run(**arguments)
        self.seconds[stage] = time.perf_counter() - started

    def scores(self) -> dict[str, float]:
        """Run every stage; TAP-Vid's strided scores."""
        from everypoint.artifacts import atomic
        from everypoint.stages import evaluate, features, flow, relevant, tracks

        preset, common = self.preset, self._common
        flows, maps = self.folder / "flow" / "1of1", self.folder / "features" / "features.npy"
        rivals = {"rival": [str(self.folder / "rival" / "1of1")]} if relevant.rival(preset) else {}
        for stage, options in zip(("flow", "rival"), relevant.flows(preset), strict=False):
            self._timed(
                stage, flow.run, frames=self._frames, options=options.model_dump(mode="json"), shard="1of1",
                output=str(self.folder / stage / "1of1"), query_frames=str(self.asked), **common,
            )  # fmt: skip
        options = preset.features.model_dump(mode="json")
        self._timed("features", features.run, frames=self._frames, options=options, output=str(maps), **common)
        model = self._optimized(str(flows), str(maps)) if preset.tracker == "optimize" else None
        files = {"output": str(self.folder / "tracks.npz"), "table": str(self.folder / "tracks.csv")}
        walked = {"flow": [str(flows)], "features": str(maps)} | rivals if preset.walks else {}
        self._timed(
            "tracks", tracks.run, frames=self._frames, queries=str(self.queries), preset=relevant.tracks(preset),
            name=self.method, seed=0, model=model, **walked, **files, **common,
        )  # fmt: skip
        evaluate.run(
            tracks=files["output"], annotations=str(self.annotations), frames=self._frames,
            options={"query_modes": ["strided"]}, video=self.name, preset=self.method,
            output=str(self.folder / "metrics.json"),
        )  # fmt: skip
        return atomic.read_json(self.folder / "metrics.json")["modes"]["strided"]

    def _optimized(self, flows: str, maps: str) -> str:
        """Matches and the depth prior where one is read, then the model; its file."""
        from everypoint.stages import depth, matches, optimize, relevant

        preset, common, prior = self.preset, self._common, None
        if preset.model.kind in relevant.WITH_PRIOR and preset.depth.backend != "none":
            prior = str(self.folder / "depth" / "depth.npy")
            options = preset.depth.model_dump(mode="json")
            self._timed("depth", depth.run, frames=self._frames, options=options, output=prior, **common)
        table, model = self.folder / "matches.npz", self.folder / "optimize" / "model.pt"
        self._timed(
            "matches", matches.run, meta=str(self.folder / "frames" / "video.json"), flow=[flows], features=maps,
            frames=self._frames if preset.matches.chain else None, options=relevant.matches(preset), seed=0,
            output=str(table), statistics=str(self.folder / "filter.json"), **common,
        )  # fmt: skip
        whole = preset.model_dump(mode="json", include={"description", "tracker", "model", "optimize"})
        self._timed(
            "optimize", optimize.run, matches=str(table), frames=self._frames, depth=prior,
            preset=whole, seed=0, output=str(model), **common,
        )  # fmt: skip
        last = json.loads((model.parent / "train.jsonl").read_text().splitlines()[-1])
        error = None if last["error"] is None else round(last["error"], 3)
        self.training = {"steps": last["step"], "planned": preset.optimize.steps, "error": error}
        shutil.rmtree(model.parent / "checkpoints", ignore_errors=True)
        return str(model)


def pictures(folder: Path) -> np.ndarray:
    """The JPEG files of a folder in their order, uint8 [T, H, W, 3]."""
    from PIL import Image

    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.jpg"))])

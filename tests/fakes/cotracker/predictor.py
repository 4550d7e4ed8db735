"""The predictors: arguments, shapes, resizes, support grid and thresholds as documented for CoTracker 2 and 3.

It refuses what the real one would refuse, and also what the real one would silently get wrong (integer queries, chunks
that do not overlap). What it leaves undefined (positions before a query) is far off and said to be visible.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cotracker.motion import frame_motion, sample
from torch import Tensor, nn

RESOLUTION = (384, 512)
SUPPORT = 6
TOLERANCE = 40.0  # levels of colour at which visibility falls to 1 / e
CONFIDENCE = 0.95
UNDEFINED = -5000.0


class Network(nn.Module):
    """The inner network. ``calls`` lists (frames, points) of every call."""

    model_resolution = RESOLUTION

    def __init__(self, window_len: int, *, v2: bool, offline: bool) -> None:
        super().__init__()
        self.window_len, self.v2, self.offline = window_len, v2, offline
        self.register_buffer("time_emb", torch.zeros(1, window_len, 4))
        head = nn.Module()
        head.weight = nn.Parameter(torch.ones(2))
        self.add_module("fake_v2" if v2 else "fake_v3", head)
        self.calls: list[tuple[int, int]] = []
        self._chain: list[Tensor] | None = None
        self._frames: list[Tensor] = []

    def init_video_online_processing(self) -> None:
        self._chain, self._frames = [], []

    def forward(self, video: Tensor, queries: Tensor, iters: int = 4, is_online: bool = False) -> tuple:
        check_video(video)
        check_queries(queries)
        if tuple(video.shape[-2:]) != RESOLUTION:
            raise ValueError(f"the network sees {RESOLUTION}, not {tuple(video.shape[-2:])}")
        if is_online:
            self._extend(video[0])
        else:
            self._chain, self._frames = [], []
            self._append(video[0])
        self.calls.append((video.shape[1], queries.shape[1]))
        tracks, visibility = follow(self._chain, self._frames, queries[0])
        tracks, visibility = self.fault(tracks, visibility, queries[0])
        confidence = torch.full_like(visibility, CONFIDENCE)
        if self.v2:
            return tracks[None], visibility[None], None
        return tracks[None], visibility[None], confidence[None], None

    def fault(self, tracks: Tensor, visibility: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """What a test puts another function in the place of: a way to be wrong."""
        return tracks, visibility

    def _append(self, frames: Tensor) -> None:
        for frame in frames:
            motion = torch.eye(3, dtype=torch.float64, device=frame.device)
            if self._frames:
                motion = frame_motion(self._frames[-1], frame) @ self._chain[-1]
            self._chain.append(motion)
            self._frames.append(frame)

    def _extend(self, chunk: Tensor) -> None:
        """One more chunk of at most a window, which begins half a window before the last one ended."""
        if self._chain is None:
            raise RuntimeError("call init_video_online_processing before the first chunk")
        if len(chunk) > self.window_len:
            raise ValueError(f"a chunk of {len(chunk)} frames is longer than the window of {self.window_len}")
        known = self.window_len // 2 if self._frames else 0
        if known:
            if len(self._frames) % known or len(chunk) <= known:
                raise ValueError("a chunk after the last one, or one that brings nothing new")
            if not torch.equal(torch.stack(self._frames[-known:]), chunk[:known]):
                raise ValueError("chunks must overlap by half a window")
        self._append(chunk[known:])


def follow(chain: list[Tensor], frames: list[Tensor], queries: Tensor) -> tuple[Tensor, Tensor]:
    """(tracks [T, N, 2], visibility [T, N]) of queries [N, 3] under the maps from frame 0 to each frame."""
    count, device = len(frames), queries.device
    tracks = torch.full((count, len(queries), 2), UNDEFINED, device=device)
    visibility = torch.full((count, len(queries)), 0.99, device=device)
    times = queries[:, 0].long()
    for start in times.unique().tolist():
        if start >= count:
            continue
        own = times == start
        there = torch.linalg.inv(chain[start])
        xy = queries[own, 1:].double()
        looks = sample(frames[start], xy.float())
        for t in range(start, count):
            motion = chain[t] @ there
            moved = xy @ motion[:2, :2].T + motion[:2, 2]
            change = (sample(frames[t], moved.float()) - looks).norm(dim=0)
            limit = torch.tensor([RESOLUTION[1], RESOLUTION[0]], device=device) - 0.5
            inside = ((moved > -0.5) & (moved < limit)).all(-1)
            tracks[t, own] = moved.float()
            visibility[t, own] = (0.99 * torch.exp(-((change / TOLERANCE) ** 2)) * inside).float()
    return tracks, visibility


class CoTrackerPredictor(nn.Module):
    """Offline."""

    def __init__(
        self,
        checkpoint: str | None = "./checkpoints/scaled_offline.pth",
        offline: bool = True,
        v2: bool = False,
        window_len: int = 60,
    ) -> None:
        super().__init__()
        self.v2 = v2
        self.model = built(checkpoint, window_len, v2=v2, offline=offline)
        self.interp_shape = RESOLUTION

    @torch.no_grad()
    def forward(
        self,
        video: Tensor,
        queries: Tensor | None = None,
        segm_mask: Tensor | None = None,
        grid_size: int = 0,
        grid_query_frame: int = 0,
        backward_tracking: bool = False,
    ) -> tuple[Tensor, Tensor]:
        check_video(video)
        if queries is None or segm_mask is not None or grid_size:
            raise NotImplementedError("this fake tracks given queries")
        check_queries(queries)
        size = tuple(video.shape[-2:])
        video, points = resized(video), scaled(queries, size, RESOLUTION)
        points = torch.cat([points, support(points)], dim=1)
        tracks, visibility = self.model.forward(video=video, queries=points, iters=6)[:2]
        if backward_tracking:
            turned = points.clone()
            turned[..., 0] = video.shape[1] - 1 - turned[..., 0]
            back = self.model.forward(video=video.flip(1), queries=turned, iters=6)[:2]
            before = torch.arange(video.shape[1], device=video.device)[None, :, None] < points[:, None, :, 0]
            tracks = torch.where(before[..., None], back[0].flip(1), tracks)
            visibility = torch.where(before, back[1].flip(1), visibility)
        count = queries.shape[1]
        tracks, visible = scaled_back(tracks[:, :, :count], size), visibility[:, :, :count] > 0.9
        own, column = queries[0, :, 0].long(), torch.arange(count, device=queries.device)
        tracks[0, own, column] = queries[0, :, 1:]
        visible[0, own, column] = True
        return tracks, visible


class CoTrackerOnlinePredictor(nn.Module):
    """Online: a first call with the queries, then chunks."""

    def __init__(
        self,
        checkpoint: str | None = "./checkpoints/scaled_online.pth",
        offline: bool = False,
        v2: bool = False,
        window_len: int = 16,
    ) -> None:
        super().__init__()
        self.v2 = v2
        self.model = built(checkpoint, window_len, v2=v2, offline=False)
        self.step = window_len // 2
        self.interp_shape = RESOLUTION
        self.queries: Tensor | None = None

    @torch.no_grad()
    def forward(
        self,
        video_chunk: Tensor,
        is_first_step: bool = False,
        queries: Tensor | None = None,
        segm_mask: Tensor | None = None,
        grid_size: int = 5,
        grid_query_frame: int = 0,
        add_support_grid: bool = False,
    ) -> tuple[Tensor | None, Tensor | None]:
        check_video(video_chunk)
        size = tuple(video_chunk.shape[-2:])
        if is_first_step:
            if queries is None or segm_mask is not None:
                raise NotImplementedError("this fake tracks given queries")
            check_queries(queries)
            self.model.init_video_online_processing()
            self.count, self.with_support = queries.shape[1], add_support_grid
            points = scaled(queries, size, RESOLUTION)
            self.queries = torch.cat([points, support(points)], dim=1) if add_support_grid else points
            return None, None
        if self.queries is None:
            raise RuntimeError("the first call must be is_first_step=True, with queries")
        if queries is not None or add_support_grid != self.with_support:
            raise ValueError("later calls take no queries, and add_support_grid as in the first")
        tracks, visibility, *rest = self.model(
            video=resized(video_chunk), queries=self.queries, iters=6, is_online=True
        )
        if not self.v2:
            visibility = visibility * rest[0]
        return scaled_back(tracks[:, :, : self.count], size), visibility[:, :, : self.count] > 0.6


def built(checkpoint: str | None, window_len: int, *, v2: bool, offline: bool) -> Network:
    if offline and v2:
        raise ValueError("version 2 has no offline network of its own")
    network = Network(window_len, v2=v2, offline=offline)
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    return network.eval()


def check_video(video: Tensor) -> None:
    if video.ndim != 5 or video.shape[0] != 1 or video.shape[2] != 3 or video.shape[1] < 2:
        raise ValueError(f"a video has shape [1, T, 3, H, W], not {tuple(video.shape)}")
    if not video.is_floating_point():
        raise TypeError(f"a video is of floats in 0..255, not {video.dtype}")


def check_queries(queries: Tensor) -> None:
    if queries.ndim != 3 or queries.shape[0] != 1 or queries.shape[2] != 3:
        raise ValueError(f"queries have shape [1, N, 3], not {tuple(queries.shape)}")
    if not queries.is_floating_point():
        raise TypeError("integer queries would be rounded")
    if (queries[..., 0] != queries[..., 0].round()).any() or (queries[..., 0] < 0).any():
        raise ValueError("a query's first number is a frame")


def resized(video: Tensor) -> Tensor:
    if tuple(video.shape[-2:]) == RESOLUTION:
        return video  # as the resize would give
    small = F.interpolate(video[0], RESOLUTION, mode="bilinear", align_corners=True)
    return small[None]


def scaled(queries: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    out = queries.clone()
    out[..., 1] *= (to[1] - 1) / (size[1] - 1)
    out[..., 2] *= (to[0] - 1) / (size[0] - 1)
    return out


def scaled_back(tracks: Tensor, size: tuple[int, int]) -> Tensor:
    factors = [(size[1] - 1) / (RESOLUTION[1] - 1), (size[0] - 1) / (RESOLUTION[0] - 1)]
    return tracks * torch.tensor(factors, device=tracks.device)


def support(like: Tensor) -> Tensor:
    """36 points [1, 36, 3] on frame 0."""
    rows = []
    for k in range(SUPPORT):
        for m in range(SUPPORT):
            x = 8 + (RESOLUTION[1] - 16) * m / (SUPPORT - 1)
            y = 8 + (RESOLUTION[0] - 16) * k / (SUPPORT - 1)
            rows.append([0.0, x, y])
    return torch.tensor(rows, dtype=like.dtype, device=like.device)[None]

"""What the filter reads of one video: flows, stored masks, features, frames and the depth mask, on one device."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.matches import CYCLE, OCCLUDED
from everypoint.config.options import MatchOptions
from everypoint.geometry import inside_index, pixel_grid
from everypoint.match.appearance import FeatureMap
from everypoint.match.filter import PairFlows, PointClasses, classify

FEATURE_MAPS = 16  # frames whose features are kept as float32 rows


class FeatureMaps:
    """The features of a video's frames as :class:`FeatureMap`; the last few that were asked for are kept.

    Args:
        features: float16 [T, h, w, C] covering frames of ``size`` (H, W).
        size: (H, W).
        device: where they are sampled.
    """

    def __init__(self, features: np.ndarray, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._features, self._size = features, size
        self._maps: OrderedDict[int, FeatureMap] = OrderedDict()

    def __getitem__(self, frame: int) -> FeatureMap:
        if frame not in self._maps:
            features = torch.from_numpy(np.array(self._features[frame])).to(self.device)
            self._maps[frame] = FeatureMap(features, self._size)
            if len(self._maps) > FEATURE_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(frame)
        return self._maps[frame]


class MatchVideo:
    """The flows of one video with all that judges them. Nothing is kept but a few feature maps and one bit a pixel.

    Args:
        store: the flows.
        features: float16 [T, h, w, C] covering the frames, or None for no appearance check.
        options: thresholds.
        device: where the arithmetic runs.
        images: uint8 [T, H, W, 3], the working frames; needed to chain.
        depth_mask: bool [T, h, w], true where the depth prior can be relied on; cells tile the frame.
    """

    def __init__(
        self,
        store: FlowStore,
        features: np.ndarray | None,
        options: MatchOptions,
        device: torch.device | str = "cpu",
        images: np.ndarray | None = None,
        depth_mask: np.ndarray | None = None,
    ) -> None:
        self.store, self.options = store, options
        self._images, self._depth_mask = images, depth_mask
        self._device = torch.device(device)
        has_features = features is not None and features.size > 0
        self._maps = FeatureMaps(features, store.size, device) if has_features else None
        self._adjacent: dict[tuple[int, int], np.ndarray] = {}
        self.pixels = pixel_grid(*store.size, device=self._device).reshape(-1, 2)  # [H * W, 2]

    def classes(self, i: int, j: int, chosen: Tensor | None = None, *, for_score: bool = False) -> PointClasses:
        """Classes of pixels of frame i (flat indices ``chosen`` [N], None for all) by the direct flow to frame j.

        The masks that came with the flows decide where there are any and ``stored_masks`` is on.
        """
        points = self.pixels if chosen is None else self.pixels[chosen]
        forward = self.flow(i, j)
        flow = forward.reshape(2, -1).T if chosen is None else forward.reshape(2, -1)[:, chosen].T
        if not self.has_stored_masks(i):
            pair = PairFlows(abs(i - j), forward, self.flow(j, i), self.map(i), self.map(j))
            return classify(points, flow, pair, self.options, for_score=for_score)
        flags = torch.from_numpy(self.store.mask(i, j)).to(self._device).reshape(-1)
        flags = flags if chosen is None else flags[chosen]
        inside = inside_index(points + flow, *self.store.size)
        cycle, occluded = (inside & ((flags & bit) > 0) for bit in (CYCLE, OCCLUDED))
        none = torch.zeros_like(cycle)
        return PointClasses(points + flow, cycle, occluded & ~cycle, none, points.new_zeros(len(points)), None)

    def flow(self, i: int, j: int) -> Tensor:
        """The flow of a pair as a field [2, H, W]."""
        flow = torch.from_numpy(self.store.flow(i, j)).to(self._device)
        return flow.permute(2, 0, 1).contiguous()

    def has_stored_masks(self, i: int) -> bool:
        """Whether the masks of source frame i came with its flows and are to be trusted."""
        return self.options.stored_masks and self.store.has_masks(i)

    def adjacent_cycle(self, i: int, j: int) -> Tensor:
        """Where the flow from i to its neighbour j is cycle-consistent, float32 [1, H, W]; kept at a bit a pixel."""
        height, width = self.store.size
        if (i, j) not in self._adjacent:
            self._adjacent[i, j] = np.packbits(self.classes(i, j).cycle.cpu().numpy())
        bits = np.unpackbits(self._adjacent[i, j], count=height * width).reshape(1, height, width)
        return torch.from_numpy(bits).to(self._device).float()

    def kept(self, i: int) -> Tensor | None:
        """Pixels of frame i that the depth mask keeps, bool [H * W]; None where all are."""
        if self._depth_mask is None:
            return None
        h, w = self._depth_mask.shape[1:]
        height, width = self.store.size
        cells = self.pixels.new_tensor([w / width, h / height])
        x, y = ((self.pixels + 0.5) * cells).long().unbind(-1)
        mask = torch.from_numpy(np.array(self._depth_mask[i])).to(self._device)
        return mask[y.clamp(max=h - 1), x.clamp(max=w - 1)]

    @property
    def depth_kept(self) -> float | None:
        """Share of pixels that the depth mask keeps; None without."""
        return None if self._depth_mask is None else float(np.mean(self._depth_mask))

    def image(self, frame: int) -> Tensor:
        """Colours of a frame, float32 [3, H, W] in 0..1."""
        if self._images is None:
            raise ValueError("the video was opened without its frames")
        return torch.from_numpy(np.array(self._images[frame])).to(self._device).permute(2, 0, 1).float() / 255

    def map(self, frame: int) -> FeatureMap | None:
        """The features of a frame; None without."""
        return None if self._maps is None else self._maps[frame]

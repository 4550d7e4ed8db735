"""The metrics again, one comparison at a time, from their definitions: for comparison with the fast ones."""

from __future__ import annotations

import math


def slow_metrics(points, gt, gt_occluded, pred, pred_occluded, mode, frames=None):
    """TAP-Vid by loops over queries, frames and thresholds; ``frames`` restricts the scored frames."""
    scored = [
        (n, t)
        for n in range(len(points))
        for t in range(gt.shape[1])
        if (t > points[n][0] if mode == "first" else t != points[n][0]) and (frames is None or t in frames)
    ]
    right = sum(bool(gt_occluded[n][t]) == bool(pred_occluded[n][t]) for n, t in scored)
    scores = {"occlusion_accuracy": ratio(right, len(scored))}
    for x in (1, 2, 4, 8, 16):
        visible = close = positives = false_positives = 0
        for n, t in scored:
            dx, dy = (float(pred[n][t][k]) - float(gt[n][t][k]) for k in (0, 1))
            within = dx * dx + dy * dy < x * x
            hit = within and not gt_occluded[n][t]
            visible += not gt_occluded[n][t]
            close += hit
            positives += hit and not pred_occluded[n][t]
            false_positives += (not pred_occluded[n][t]) and not hit
        scores[f"pts_within_{x}"] = ratio(close, visible)
        scores[f"jaccard_{x}"] = ratio(positives, visible + false_positives)
    for name, each in (("average_jaccard", "jaccard"), ("average_pts_within_thresh", "pts_within")):
        a, b, c, d, e = (scores[f"{each}_{x}"] for x in (1, 2, 4, 8, 16))
        scores[name] = (a + b + c + d + e) / 5
    return scores


def ratio(numerator, denominator):
    return numerator / denominator if denominator else math.nan


def slow_coherence(gt, occluded, pred, pred_occluded=None):
    """Temporal coherence by loops."""
    found = []
    for n in range(len(gt)):
        for t in range(gt.shape[1] - 2):
            hidden = any(occluded[n][t : t + 3])
            if pred_occluded is not None:
                hidden = hidden or any(pred_occluded[n][t : t + 3])
            if not hidden:
                parts = [
                    (p[t + 2][k] - 2 * p[t + 1][k] + p[t][k]) - (g[t + 2][k] - 2 * g[t + 1][k] + g[t][k])
                    for p, g in ((pred[n], gt[n]),)
                    for k in (0, 1)
                ]
                found.append(math.hypot(*parts))
    return sum(found) / len(found) if found else 0.0

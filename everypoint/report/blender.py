"""The script that puts tracks into Blender's clip editor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Marker = tuple[int, float, float, bool]  # frame, x, y in parts of the frame with y upward, hidden

_SCRIPT = '''"""Point tracks for Blender: run this in the text editor, with the video open in a Movie Clip editor.

The tracks are of frames of {width} x {height} pixels. Where a point is hidden its marker is disabled.
"""

import bpy

TRACKS = [  # name, [(frame, x, y, hidden), ...]: parts of the frame, y upward
{tracks}]


def clip_in_use():
    """The clip of an open Movie Clip editor, else the first one of the file."""
    screen = getattr(bpy.context, "screen", None)
    for area in screen.areas if screen else ():
        if area.type == "CLIP_EDITOR" and area.spaces.active.clip:
            return area.spaces.active.clip
    if not bpy.data.movieclips:
        raise RuntimeError("open the video in a Movie Clip editor first")
    return bpy.data.movieclips[0]


def add(clip, name, markers):
    """One track with its markers."""
    track = clip.tracking.tracks.new(name=name, frame=markers[0][0])
    for frame, x, y, hidden in markers:
        marker = track.markers.insert_frame(frame, co=(x, y))
        marker.mute = hidden


clip = clip_in_use()
for name, markers in TRACKS:
    add(clip, name, markers)
'''


def script(tracks: Iterable[tuple[str, Sequence[Marker]]], frame_size: tuple[int, int]) -> str:
    """A Python script that makes these tracks; their names are literals, whatever they hold.

    Args:
        tracks: name and markers of each, at least one marker.
        frame_size: (H, W).
    """
    height, width = frame_size
    text = "".join(f"    ({name!a}, [\n{_lines(markers)}    ]),\n" for name, markers in tracks)
    return _SCRIPT.format(height=height, width=width, tracks=text)


def _lines(markers: Sequence[Marker]) -> str:
    return "".join(f"        ({frame}, {x:.8f}, {y:.8f}, {hidden}),\n" for frame, x, y, hidden in markers)

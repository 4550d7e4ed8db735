"""Files and folders of the user's that a back-end reads besides the video."""

from __future__ import annotations

from pathlib import Path

from everypoint.errors import ConfigError


def place_of(place: str | None, key: str) -> Path | None:
    """The path that the plan found; None where the back-end reads none.

    Raises :class:`ConfigError`, naming the option ``key``, where the video is no folder and the option is not set.
    """
    if place is None:
        return None
    if not place:
        raise ConfigError(
            f"{key} is not set and the video is no folder that could hold what is to be read",
            cure=f"set {key}; {{video}} in it stands for the video's name",
        )
    return Path(place)

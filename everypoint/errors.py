"""Errors that say what failed, why, and what to do about it.

Every error that a user can cause or cure is an :class:`EverypointError`; its text is complete on its own, so callers
print ``str(error)`` and nothing else. Anything else that escapes is a defect of everypoint and keeps its traceback.
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL: stopped from outside, what is finished is kept, start me again


class EverypointError(Exception):
    """Base of all expected failures.

    Args:
        what: what failed, with the name of the file, video or key.
        why: the cause, when it adds something.
        cure: what to do.
    """

    def __init__(self, what: str, why: str = "", cure: str = "") -> None:
        self.what, self.why, self.cure = what, why, cure
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The one line shown to the user: what: why; cure."""
        text = self.what.rstrip(".")
        if self.why:
            text += f": {self.why.rstrip('.')}"
        if self.cure:
            text += f"; {self.cure.rstrip('.')}"
        return text + "."


class ConfigError(EverypointError):
    """A key, a value or a preset that does not fit the schema."""


class InputError(EverypointError):
    """A video, an image folder, a query file or a data set that cannot be used."""


class AssetError(EverypointError):
    """A weight file or clip that cannot be fetched, or whose bytes are not the expected ones."""


class ArtifactError(EverypointError):
    """An intermediate or final file that is missing, damaged, or of another kind than expected."""


class MissingPackageError(EverypointError):
    """An optional package that a chosen back-end needs and that is not installed."""


class ResourceError(EverypointError):
    """Not enough memory or disk, or a device that is not there."""


class TrainingError(EverypointError):
    """An optimisation that cannot go on (a loss that is not finite, for instance)."""

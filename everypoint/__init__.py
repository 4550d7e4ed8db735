"""everypoint: track every point in a folder of videos."""

__version__ = "0.1.0"

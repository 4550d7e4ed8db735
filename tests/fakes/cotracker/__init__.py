"""A stand-in for CoTracker: its documented interface, with a motion estimate that is simple and known."""

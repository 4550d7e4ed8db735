"""Depth priors: one file a back-end, and which of their pixels can be relied on."""

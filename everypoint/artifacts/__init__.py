"""Typed files: written atomically, checked before they are trusted."""

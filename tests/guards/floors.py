"""The floors of the package: a room imports only rooms below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.guards import Finding

FLOORS = {  # room: floor; the decimals order what else would be one floor: all of floor 2 writes through artifacts
    "errors": 1.0,
    "numerics": 1.0,
    "progress": 1.0,
    "geometry": 1.1,
    "config": 1.2,
    "artifacts": 2.0,
    "assets": 2.1,
    "networks": 2.1,
    "video": 2.1,
    "scenes": 2.1,
    **dict.fromkeys(("correspond", "features", "depth", "match", "models", "pips"), 3.0),
    **dict.fromkeys(("optimize", "track", "evaluate", "report"), 4.0),
    "stages": 5.0,
    "__main__": 6.0,
}


def room_of(path: str) -> str:
    """The room of a file: ``everypoint/track/chain.py`` -> ``track``; '' for the package itself."""
    part = PurePosixPath(path).parts[1].removesuffix(".py")
    return "" if part == "__init__" else part


def upward_imports(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Imports of a room that is not below the file's own; lazy ones and those for types count alike."""
    room = room_of(path)
    for node in ast.walk(tree):
        for target in _rooms(node):
            if target == room:
                continue
            if target not in FLOORS:
                yield Finding(node.lineno, f"room {target} has no floor")
            elif FLOORS[target] >= FLOORS.get(room, 0.0):
                yield Finding(node.lineno, f"{room or 'the package'} (floor {FLOORS.get(room, 0)}) imports {target}")
        if isinstance(node, ast.ImportFrom) and node.level:
            yield Finding(node.lineno, "relative import")


def _rooms(node: ast.AST) -> list[str]:
    """The rooms that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "everypoint":
        names = [f"everypoint.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module or ""]
    else:
        names = []
    rooms = [name.split(".")[1] for name in names if name.startswith("everypoint.")]
    return [room for room in rooms if room != "__version__"]

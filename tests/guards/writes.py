"""Writes that do not go through ``everypoint.artifacts.atomic``, so that a killed process would leave half a file.

Writing is right inside ``with atomic_path(...) as temporary`` to that temporary path, and in a function handed to
``write_with`` or to a folder writer's ``add``, to the file or path that it is given.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.guards import Finding
from tests.guards.names import dotted, imported_names, keyword

WRITERS = {
    *(f"numpy.{name}" for name in ("save", "savez", "savez_compressed", "savetxt")),
    *(f"imageio{version}.{name}" for version in ("", ".v2", ".v3") for name in ("imwrite", "mimsave", "mimwrite")),
    *(f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copyfileobj", "copytree", "move")),
    *("torch.save", "cv2.imwrite", "cv2.VideoWriter", "imageio_ffmpeg.write_frames", "json.dump", "pickle.dump"),
    *("os.rename", "os.replace", "os.link", "os.symlink"),
}
WRITING_METHODS = {"write_text", "write_bytes", "tofile", "savefig", "imwrite", "get_writer", "to_csv", "touch"}
OPENERS = {"open", "io.open", "codecs.open", "gzip.open", "bz2.open", "lzma.open", "os.fdopen"}
WITH_MODE = {"numpy.memmap": 2, "numpy.lib.format.open_memmap": 1, "zipfile.ZipFile": 1, "tarfile.open": 1}
GIVERS = ("atomic_path",)  # context managers that give a path to write to
TAKERS = ("write_with", "add")  # functions that take a function which is given a file or path to write to
OURS = "everypoint.artifacts."


def direct_writes(tree: ast.Module) -> Iterator[Finding]:
    """Every call that writes under a name which nobody made for it."""
    yield from _visit(tree, frozenset(), imported_names(tree), _handed_over(tree))


def _handed_over(tree: ast.Module) -> set[str]:
    """Names of functions that are handed to a taker by name."""
    return {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _last(node.func) in TAKERS
        for argument in node.args
        if isinstance(argument, ast.Name)
    }


def _visit(node: ast.AST, given: frozenset[str], imports: dict[str, str], handed: set[str]) -> Iterator[Finding]:
    """Walk down, knowing the names that stand for files or paths made for writing."""
    if isinstance(node, ast.With):
        for item in node.items:
            yield from _visit(item.context_expr, given, imports, handed)
            if _gives(item.context_expr, given) and isinstance(item.optional_vars, ast.Name):
                given |= {item.optional_vars.id}
        children: list[ast.AST] = list(node.body)
    else:
        if isinstance(node, ast.FunctionDef) and node.name in handed:
            given |= {argument.arg for argument in node.args.args}
        if isinstance(node, ast.Call):
            if (what := writes(node, imports)) and not _names(node) & given:
                yield Finding(node.lineno, f"{what} writes to a final name")
            if _last(node.func) in TAKERS:
                given |= {a.arg for each in node.args if isinstance(each, ast.Lambda) for a in each.args.args}
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _visit(child, given, imports, handed)
        if isinstance(child, ast.Assign) and _names(child.value) & given:
            given |= {target.id for target in child.targets if isinstance(target, ast.Name)}


def _gives(context: ast.expr, given: frozenset[str]) -> bool:
    return isinstance(context, ast.Call) and (_last(context.func) in GIVERS or bool(_names(context) & given))


def _last(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def writes(call: ast.Call, imports: dict[str, str]) -> str:
    """What writes in this call, or an empty text."""
    name = dotted(call.func, imports)
    if name.startswith(OURS):
        return ""
    if name in WRITERS or (name.startswith("?.") and _last(call.func) in WRITING_METHODS):
        return name
    if name in OPENERS:
        position = 1
    elif name in WITH_MODE:
        position = WITH_MODE[name]
    elif name.startswith("?.") and name.endswith(".open") and _looks_like_a_mode(call):
        position = 0
    else:
        return ""
    mode = call.args[position] if len(call.args) > position else keyword(call, "mode")
    if mode is None:
        return ""
    if isinstance(mode, ast.Constant) and isinstance(mode.value, str):
        return name if set(mode.value) & set("wax+") else ""
    return f"{name} with a mode that is not a constant"


def _looks_like_a_mode(call: ast.Call) -> bool:
    """Whether the first argument of some object's ``open`` is a file mode, as for ``Path.open``."""
    mode = call.args[0] if call.args else keyword(call, "mode")
    return (
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and bool(re.fullmatch("[rwaxbt+]+", mode.value))
    )

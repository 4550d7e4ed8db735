"""What a dotted name in a module stands for, followed through its imports."""

from __future__ import annotations

import ast


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> full dotted name, for every import anywhere in the module (lazy ones too)."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                names[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, imports: dict[str, str]) -> str:
    """The full dotted name of an expression such as ``np.lib.format.open_memmap``.

    What does not begin with an imported name begins with ``?``: ``path.write_text`` is ``?.write_text``; a bare name
    that is not imported (a builtin, say) is itself.
    """
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and (node.id in imports or not parts):
        parts.append(imports.get(node.id, node.id))
    else:
        parts.append("?")
    return ".".join(reversed(parts))


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument, or None."""
    return next((argument.value for argument in call.keywords if argument.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Whether an expression is literally this constant."""
    return isinstance(node, ast.Constant) and node.value is value

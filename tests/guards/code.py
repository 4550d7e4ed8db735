"""Offences that the syntax tree of one Python module shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.guards import Finding
from tests.guards.names import dotted, imported_names, is_constant, keyword

LONGEST_FILE = 500
LONGEST_FUNCTION = 80
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPICKLING_CALLS = {"pandas.read_pickle", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load"}


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the full dotted name of what is called."""
    imports = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func, imports)


def bare_excepts(tree: ast.Module) -> Iterator[Finding]:
    """``except:`` also swallows Ctrl-C."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield Finding(node.lineno, "bare except")


def shells(tree: ast.Module) -> Iterator[Finding]:
    """A shell would run what a hostile file name says."""
    for call, name in calls(tree):
        shell = keyword(call, "shell")
        if name in SHELLS or (shell is not None and not is_constant(shell, False)):
            yield Finding(call.lineno, f"{name} runs a shell")


def unpickling(tree: ast.Module) -> Iterator[Finding]:
    """A pickle runs code; only ``artifacts/pickles.py`` may touch one, through its allow-list."""
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        for module in modules:
            if module.split(".")[0] in UNPICKLERS:
                yield Finding(node.lineno, f"import of {module}")
    for call, name in calls(tree):
        allow = keyword(call, "allow_pickle")
        if allow is not None and not is_constant(allow, False):
            yield Finding(call.lineno, f"{name} with allow_pickle")
        if name == "torch.load" and not is_constant(keyword(call, "weights_only"), True):
            yield Finding(call.lineno, "torch.load without weights_only=True")
        if name in UNPICKLING_CALLS:
            yield Finding(call.lineno, f"{name} unpickles")


def asserts(tree: ast.Module) -> Iterator[Finding]:
    """``python -O`` drops asserts, and their message is no sentence for a user."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield Finding(node.lineno, "assert in the package")


def long_functions(tree: ast.Module) -> Iterator[Finding]:
    """A function that does not fit a screen is not read at a glance."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield Finding(node.lineno, f"function {node.name} of {lines} lines")


def long_file(text: str) -> Iterator[Finding]:
    """A file of this length holds more than one thing."""
    lines = text.count("\n")
    if lines > LONGEST_FILE:
        yield Finding(lines, f"file of {lines} lines")

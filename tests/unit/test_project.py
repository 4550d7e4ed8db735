"""The project's own files agree with each other: pins, lock, environments, package data, Makefile."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.guards import texts
from tests.shared import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKED_EXTRAS = ("depth", "dev", "pips", "slurm")
# Imported inside one file, with an error that says how to install.
OPTIONAL = {"albumentations", "tinycudann", "cotracker", "transformers", "triton"}
MODULES = {  # module -> the package that brings it, where the two differ in name
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "markupsafe": "jinja2",  # the type of jinja2's escaped text, which it always brings
    "yaml": "pyyaml",
}


def normal(name: str) -> str:
    """A package name as registries compare them, without its extras."""
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


def pins(requirements: list[str]) -> dict[str, str]:
    """Package -> version; a requirement that is no exact pin is an error."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9._-]+(?:\[[a-z,]+\])?)==([0-9][0-9a-z.]*)", requirement)
        assert match, f"{requirement} is not an exact pin"
        found[normal(match[1])] = match[2]
    return found


def locked() -> dict[str, tuple[str, int]]:
    """Package -> (version, number of hashes) of requirements.lock."""
    entries = re.split(r"\n(?=[a-zA-Z0-9])", (ROOT / "requirements.lock").read_text())
    found = {}
    for entry in entries:
        if match := re.match(r"([A-Za-z0-9._-]+(?:\[[a-z,]+\])?)==(\S+)", entry):
            found[normal(match[1])] = (match[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)))
    return found


def test_all_dependencies_are_exact_pins():
    assert pins(PROJECT["project"]["dependencies"])
    assert all(pins(extra) for extra in EXTRAS.values())


def test_lock_holds_the_pins_and_a_hash_for_each():
    lock = locked()
    wanted = pins([*PROJECT["project"]["dependencies"], *(pin for extra in LOCKED_EXTRAS for pin in EXTRAS[extra])])
    assert {name: lock[name][0] for name in wanted} == wanted
    assert [name for name, (_, hashes) in lock.items() if not hashes] == []
    assert len(lock) > 100  # what the pins need is locked as well


def test_lock_names_no_registry():
    lock = (ROOT / "requirements.lock").read_text()
    assert list(texts.registry_hosts(lock)) == []
    assert "://" not in lock
    assert not re.search(r"^\s*-(?!-hash)", lock, re.MULTILINE)  # no pip option but hashes


def test_build_needs_only_what_is_locked():
    """The package is installed without build isolation: what builds it must be among the locked."""
    lock = locked()
    for name, version in pins(PROJECT["build-system"]["requires"]).items():
        assert lock[name][0] == version


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_environments_have_the_pins_of_the_project(path):
    wanted = pins([*PROJECT["project"]["dependencies"], *EXTRAS["depth"], *EXTRAS["pips"]])
    content = yaml.safe_load(path.read_text())
    found = pins(next(item for item in content["dependencies"] if isinstance(item, dict))["pip"])
    assert found == {name: wanted[name] for name in found}
    minimum = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"python={minimum}" in content["dependencies"]


def test_environments_named_by_rules_exist():
    for rules in (ROOT / "rules").glob("*.smk"):
        for name in re.findall(r"envs/[\w.-]+", rules.read_text()):
            assert (ROOT / name).is_file(), f"{rules.name} names {name}"


def test_every_import_is_a_declared_dependency():
    declared = pins(PROJECT["project"]["dependencies"])
    known = {*sys.stdlib_module_names, "everypoint", "numpy", *OPTIONAL}
    for path in (ROOT / "everypoint").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in {module.split(".")[0] for module in modules} - known:
                package = normal(MODULES.get(module, module))
                assert package in declared, f"{path.relative_to(ROOT)}:{node.lineno} imports {module}"


def test_every_data_file_of_the_package_is_installed_with_it():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["everypoint"]
    package = ROOT / "everypoint"
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    present = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert {str(path.relative_to(ROOT)) for path in present - installed} == set()
    assert installed


def test_ci_runs_the_checks_and_the_tests():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    content = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in content
    assert content.index("make check") < content.index("make test")


# --------------------------------------------------------------------------------------------------- Makefile


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Makefile in a copy of the few files that it looks at."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_help_lists_every_target(tmp_path):
    shown = make(tmp_path).stdout  # help is the default
    for target in ("demo", "test", "test-all", "check", "clean", "help"):
        assert re.search(rf"^  make {target} ", shown, re.MULTILINE), target


def test_old_python_is_one_sentence_and_nothing_is_made(tmp_path):
    """A stand-in that says it is Python 3.10 to every question."""
    old = tmp_path / "old-python"
    pretend = "import sys; sys.version_info, sys.version = (3, 10), '3.10.13 (main)'; exec(sys.argv[2])"
    old.write_text(f"#!{sys.executable}\n{pretend}\n")
    old.chmod(0o755)
    done = make(tmp_path, "venv", f"PYTHON={old}")
    assert done.returncode != 0
    assert "everypoint needs Python 3.11 or newer" in done.stderr
    assert "3.10.13" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_clean_keeps_results_videos_and_the_environment(tmp_path):
    made = ("demo/results", "demo/videos", "src/__pycache__", ".pytest_cache")
    for name in ("results", "videos", ".snakemake", ".venv/bin", "assets-cache", *made):
        (tmp_path / name).mkdir(parents=True)
    assert make(tmp_path, "clean").returncode == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert left == {"results", "videos", ".snakemake", ".venv", ".venv/bin", "assets-cache", "demo", "src"}


def test_the_questions_quote_sentences_that_are_printed():
    """A title in quotation marks is what a user saw; an ellipsis stands for a name."""
    code = "\n".join(path.read_text() for path in (ROOT / "everypoint").rglob("*.py"))
    quoted = re.findall(r'^\*\*"(.+?)"\*\*', (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)
    assert quoted
    for title in quoted:
        pattern = ".+".join(re.escape(part) for part in title.split("..."))
        assert re.search(pattern, code), title

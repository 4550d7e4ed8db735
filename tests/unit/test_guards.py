"""House rules that a machine can check, over every tracked file; each check is shown to find what it looks for."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from tests.guards import Finding, code, floors, snakefiles, texts, writes
from tests.shared import ROOT

# Places that may do what others may not: (file, what the finding says) -> why.
ALLOWED = {
    ("everypoint/artifacts/pickles.py", "import of pickle"): "the allow-list unpickler itself",
    (
        "everypoint/assets/download.py",
        "open with a mode that is not a constant writes to a final name",
    ): "a partial download, resumed by appending; checked, then published by atomic_path",
    ("everypoint/assets/packages.py", "open writes to a final name"): "the same partial file, out of a wheel",
    ("everypoint/assets/packages.py", "shutil.copyfileobj writes to a final name"): "the same",
    ("everypoint/assets/unpack.py", "os.replace writes to a final name"): "publishes a whole folder with its manifest",
}
WRITING_ROOM = "everypoint/artifacts/"  # the only place that makes final names


@cache
def tracked() -> tuple[str, ...]:
    """The files under version control that exist; files that are being written are nobody's offence yet."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the guards look at tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@cache
def text_of(name: str) -> str:
    """The text of a file; '' for a binary one."""
    content = (ROOT / name).read_bytes()
    return "" if b"\0" in content else content.decode()


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(text_of(name), name)


def modules(*folders: str) -> list[str]:
    return [name for name in tracked() if name.endswith(".py") and name.startswith(folders)]


def snakemake_files() -> list[str]:
    return [name for name in tracked() if name.endswith(".smk") or name.rsplit("/", 1)[-1] == "Snakefile"]


def refuse_offences(names: list[str], check: Callable[[str], Iterator[Finding]]) -> None:
    """Fail with ``file:line: what`` for every finding that is not allowed."""
    offences = [
        f"{name}:{found.line}: {found.text}"
        for name in names
        for found in check(name)
        if (name, found.text) not in ALLOWED
    ]
    if offences:
        pytest.fail("\n".join(["house rules are broken:", *offences]), pytrace=False)


def on_trees(check: Callable[[ast.Module], Iterator[Finding]]) -> Callable[[str], Iterator[Finding]]:
    return lambda name: check(tree_of(name))


def on_texts(check: Callable[[str], Iterator[Finding]]) -> Callable[[str], Iterator[Finding]]:
    return lambda name: check(text_of(name))


# ------------------------------------------------------------------------------------------------- the project


@pytest.mark.parametrize("check", [code.bare_excepts, code.shells, code.unpickling, code.asserts])
def test_package_and_scripts_have_none_of(check):
    refuse_offences(modules("everypoint/", "scripts/"), on_trees(check))


def test_writes_go_through_the_writing_room():
    names = [name for name in modules("everypoint/", "scripts/") if not name.startswith(WRITING_ROOM)]
    refuse_offences(names, on_trees(writes.direct_writes))


def test_rooms_import_downward_only():
    refuse_offences(modules("everypoint/"), lambda name: floors.upward_imports(name, tree_of(name)))


def test_every_room_has_a_floor():
    rooms = {floors.room_of(name) for name in modules("everypoint/")} - {""}
    assert rooms <= set(floors.FLOORS)


def test_files_and_functions_are_short():
    names = modules("")
    refuse_offences(names, on_trees(code.long_functions))
    refuse_offences([*names, *snakemake_files()], on_texts(code.long_file))


@pytest.mark.parametrize("check", [snakefiles.unlike_names, snakefiles.unquoted_placeholders, snakefiles.careless_code])
def test_workflow_has_none_of(check):
    refuse_offences(snakemake_files(), on_texts(check))


@pytest.mark.parametrize("check", [texts.registry_hosts, texts.machine_paths])
def test_no_tracked_text(check):
    refuse_offences(list(tracked()), on_texts(check))


def test_no_large_or_weight_like_file_is_tracked():
    """Weights and clips are fetched by hash, never committed."""
    assert [name for name in tracked() if (ROOT / name).stat().st_size > 2_000_000] == []
    assert [name for name in tracked() if name.endswith((".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".whl"))] == []


def test_allowed_places_still_need_their_leave():
    for name, text in ALLOWED:
        found = [finding.text for check in (code.unpickling, writes.direct_writes) for finding in check(tree_of(name))]
        assert text in found, f"{name} no longer needs its entry in ALLOWED"


# ---------------------------------------------------------------------------------- the guards are able to fail

PYTHON_OFFENCES = [
    (code.bare_excepts, "try:\n    f()\nexcept:\n    pass"),
    (code.shells, "import subprocess\nsubprocess.run('ls', shell=True)"),
    (code.shells, "from subprocess import run as go\ngo('ls', shell=flag)"),
    (code.shells, "import os as system\nsystem.system('ls')"),
    (code.shells, "from subprocess import getoutput\ngetoutput('ls')"),
    (code.unpickling, "import pickle\npickle.load(file)"),
    (code.unpickling, "def f():\n    from pickle import loads as read\n    return read(b'')"),
    (code.unpickling, "import joblib"),
    (code.unpickling, "import numpy as np\nnp.load('a.npy', allow_pickle=True)"),
    (code.unpickling, "from numpy import load\nload('a.npy', allow_pickle=flag)"),
    (code.unpickling, "import torch\ntorch.load('a.pt')"),
    (code.unpickling, "import torch as t\nt.load('a.pt', weights_only=False)"),
    (code.unpickling, "from torch import load\nload('a.pt', map_location='cpu')"),
    (code.unpickling, "import torch\ntorch.hub.load('a', 'b')"),
    (code.asserts, "def f(x):\n    assert x > 0, 'must be positive'"),
    (code.long_functions, "def f():\n" + "    x = 1\n" * 80),
    (writes.direct_writes, "open('a', 'w').write('x')"),
    (writes.direct_writes, "open('a', mode='ab')"),
    (writes.direct_writes, "open('a', 'r+')"),
    (writes.direct_writes, "open('a', mode)"),
    (writes.direct_writes, "import gzip\ngzip.open('a', 'xb')"),
    (writes.direct_writes, "path.open('w')"),
    (writes.direct_writes, "path.write_text('x')"),
    (writes.direct_writes, "(folder / 'a').write_bytes(b'')"),
    (writes.direct_writes, "from pathlib import Path\nPath('a').write_text('x')"),
    (writes.direct_writes, "import numpy as np\nnp.savez('a', b=1)"),
    (writes.direct_writes, "from numpy import save as keep\nkeep('a', b)"),
    (writes.direct_writes, "import numpy as np\nnp.memmap('a', 'u1', 'w+')"),
    (writes.direct_writes, "import numpy as np\nnp.lib.format.open_memmap('a', mode='w+')"),
    (writes.direct_writes, "array.tofile('a')"),
    (writes.direct_writes, "import torch\ntorch.save(x, 'a')"),
    (writes.direct_writes, "import cv2\ncv2.imwrite('a.png', x)"),
    (writes.direct_writes, "import imageio.v3 as iio\niio.imwrite('a.mp4', x)"),
    (writes.direct_writes, "import imageio_ffmpeg\nimageio_ffmpeg.write_frames('a.mp4', (1, 1))"),
    (writes.direct_writes, "import json\njson.dump(x, file)"),
    (writes.direct_writes, "figure.savefig('a.png')"),
    (writes.direct_writes, "import shutil\nshutil.copyfile('a', 'b')"),
    (writes.direct_writes, "import os\nos.replace('a', 'b')"),
    (writes.direct_writes, "with atomic_path(p) as temporary:\n    open(p, 'w')"),
    (writes.direct_writes, "write_with(p, lambda file: numpy)\nopen(file, 'w')"),
]
PYTHON_GOOD = [
    (code.bare_excepts, "try:\n    f()\nexcept OSError:\n    pass"),
    (code.shells, "import subprocess\nsubprocess.run(['ls'], shell=False)"),
    (code.unpickling, "import torch\ntorch.load('a.pt', weights_only=True)\nmodel.load('a')"),
    (code.unpickling, "import numpy as np\nnp.load('a.npy', allow_pickle=False)\nnp.load('b.npy')"),
    (code.long_functions, "def f():\n" + "    x = 1\n" * 79),
    (writes.direct_writes, "open('a')\nopen('a', 'rb')\npath.open()\npath.open('r')\nbackend.open(frames)"),
    (writes.direct_writes, "with atomic_path(p) as temporary, open(temporary, 'wb') as file:\n    file.write(b'')"),
    (writes.direct_writes, "import torch\nwith atomic.atomic_path(p) as t:\n    torch.save(x, t)"),
    (writes.direct_writes, "import cv2\nwith atomic_path(p) as t:\n    name = str(t)\n    cv2.imwrite(name, x)"),
    (writes.direct_writes, "import torch\natomic.write_with(p, lambda file: torch.save(x, file))"),
    (writes.direct_writes, "import torch\ndef put(file):\n    torch.save(x, file)\nwrite_with(p, put)"),
    (writes.direct_writes, "from everypoint.artifacts import atomic\natomic.write_text(p, 'x')"),
    (writes.direct_writes, "from everypoint.artifacts.atomic import write_text\nwrite_text(p, 'x')"),
    (writes.direct_writes, "text.replace('a', 'b')\nimport io\nio.StringIO().write('x')"),
]


@pytest.mark.parametrize(("check", "snippet"), PYTHON_OFFENCES)
def test_guard_finds(check, snippet):
    assert list(check(ast.parse(snippet)))


@pytest.mark.parametrize(("check", "snippet"), PYTHON_GOOD)
def test_guard_lets_pass(check, snippet):
    assert list(check(ast.parse(snippet))) == []


@pytest.mark.parametrize(
    ("path", "snippet", "offends"),
    [
        ("everypoint/track/chain.py", "from everypoint.stages import flow", True),
        ("everypoint/track/chain.py", "import everypoint.evaluate.tapvid", True),  # a sibling is not below
        ("everypoint/track/chain.py", "def f():\n    from everypoint import report", True),
        ("everypoint/geometry.py", "from everypoint.config.options import Options", True),
        ("everypoint/artifacts/video.py", "from everypoint.video import decode", True),
        ("everypoint/track/chain.py", "from everypoint.attic import old", True),
        ("everypoint/track/chain.py", "from . import base", True),
        ("everypoint/__init__.py", "from everypoint.errors import EverypointError", True),
        ("everypoint/track/chain.py", "from everypoint.track.base import Tracker", False),
        ("everypoint/track/chain.py", "from everypoint import __version__, geometry", False),
        ("everypoint/video/decode.py", "from everypoint.artifacts.video import VideoMeta", False),
        ("everypoint/stages/flow.py", "from everypoint.track import chain\nimport numpy.random", False),
        ("everypoint/__main__.py", "from everypoint.stages import cli", False),
    ],
)
def test_floors(path, snippet, offends):
    assert bool(list(floors.upward_imports(path, ast.parse(snippet)))) == offends


GOOD_RULE = """
rule flow:
    input:
        frames="<results>/{video}/frames/frames.npy",
    output:
        directory("<results>/{video}/flow"),
    log:
        "<logs>/{video}/flow.log",
    benchmark:
        "<benchmarks>/{video}/flow.jsonl"
    params:
        options=lookup("flow"),
    script:
        "../scripts/flow.py"


rule all:
    input:
        "<results>/report.html",
"""


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("../scripts/flow.py", "../scripts/optical_flow.py", snakefiles.unlike_names),
        ("../scripts/flow.py", "../scripts/myflow.py", snakefiles.unlike_names),
        (
            '    script:\n        "../scripts/flow.py"',
            '    shell:\n        "touch {output:q}"',
            snakefiles.unlike_names,
        ),
        ("flow.log", "out.log", snakefiles.unlike_names),
        ("    log:\n", "    threads:\n", snakefiles.unlike_names),
        ("    benchmark:\n", "    threads:\n", snakefiles.unlike_names),
        ("rule flow", "checkpoint optical", snakefiles.unlike_names),
        ("script:\n", 'shell:\n        "x {input} {output:q}"\n', snakefiles.unquoted_placeholders),
        (
            "script:\n",
            "shell:\n        'x {output[0]} '\n        '{wildcards.video}'\n",
            snakefiles.unquoted_placeholders,
        ),
        ("rule all:", "try:\n    f()\nexcept :\n    pass\n\nrule all:", snakefiles.careless_code),
        ("rule all:", "subprocess.run(x, shell=True)\n\nrule all:", snakefiles.careless_code),
    ],
)
def test_workflow_guard_finds(old, new, check):
    assert list(check(GOOD_RULE)) == []
    assert old in GOOD_RULE
    assert list(check(GOOD_RULE.replace(old, new)))


def test_workflow_guard_lets_quoted_and_escaped_placeholders_pass():
    text = GOOD_RULE.replace("script:\n", 'shell:\n        "x {input.a:q} {output:q} {threads} {{input}}"\n')
    assert list(snakefiles.unquoted_placeholders(text)) == []


@pytest.mark.parametrize(
    "line",
    [
        "https://files.python" + "hosted.org/packages/a.tar.gz",
        "--in" + "dex-url https://example.org/simple",
        "--extra-in" + "dex-url x",
        "pip install --find" + "-links wheels .",
        "see py" + "pi.org/project/torch",
        "url: https://example.org/a-1.0-py3-none-any." + "whl",
    ],
)
def test_registry_guard_finds(line):
    assert list(texts.registry_hosts(f"first\n{line}\n"))


@pytest.mark.parametrize("path", ["work/main", "root/.cache", "home/me/videos", "tmp/x", "Users/me"])
@pytest.mark.parametrize("before", ["", "cd ", '"', "path=", "(", "file://"])
def test_machine_path_guard_finds(path, before):
    assert list(texts.machine_paths(f"{before}/{path}"))


@pytest.mark.parametrize(
    "line", ["results/tmp/x", "{folder}/work", "~/home/x", "https://example.org/home/", "https://home/x", "/path/to/x"]
)
def test_machine_path_guard_lets_pass(line):
    assert list(texts.machine_paths(line)) == []


def test_length_guard():
    assert list(code.long_file("x\n" * 501))
    assert list(code.long_file("x\n" * 500)) == []

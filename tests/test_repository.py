"""Rules of the whole tree: dependencies point one way, files are small, docs name what exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tmi", "kernels", "data_pipelines", "experiments", "notebooks", "tests")
SOURCES = sorted(
    [ROOT / "setup.py", *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))]
)
MAX_LINES = 600
TREE_MARKER = "<!-- tree -->"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a file imports or spells out as an attribute of jax."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), name(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("jax._src"):
            yield node.lineno, ast.unparse(node)


def offences(under: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{name(path)}:{line} uses {module}"
        for path in SOURCES
        if name(path).startswith(under)
        for line, module in modules(path)
        if module.startswith(tuple(f"{f}." for f in forbidden)) or module in forbidden
    ]


def test_tmi_stands_alone():
    assert offences(("tmi/", "kernels/"), ("experiments", "data_pipelines", "tests")) == []
    assert offences(("data_pipelines/",), ("experiments", "tests")) == []


def test_nothing_private_of_jax_is_used():
    assert offences(("",), ("jax._src", "jaxlib._jax")) == []


def test_files_are_read_in_one_sitting():
    lines = {name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {path: n for path, n in lines.items() if n > MAX_LINES} == {}


def test_every_package_says_what_it_is():
    packages = {p.parent for p in SOURCES if not name(p).startswith(("tests/", "notebooks/"))}
    missing = []
    for package in sorted(packages - {ROOT, ROOT / "kernels", ROOT / "kernels" / "benchmarks"}):
        init = package / "__init__.py"
        if not init.exists() or not ast.get_docstring(ast.parse(init.read_text("utf-8"))):
            missing.append(name(init))
    assert missing == []


def tree_paths(text: str) -> list[str]:
    """The paths of the fenced block after `<!-- tree -->`.

    A line is indented below its folder, gives one or more names separated by single spaces, then
    two spaces and what they are. Folders end in "/". Lines drawn with branches are read as well.
    """
    paths: list[str] = []
    if TREE_MARKER not in text:
        return paths
    block = re.match(r"\s*```[^\n]*\n(.*?)\n```", text.split(TREE_MARKER, 1)[1], re.DOTALL)
    assert block, f"after {TREE_MARKER} comes a fenced block"
    folders: list[tuple[int, str]] = []
    for line in block[1].splitlines():
        bare = re.sub(r"[│├└─|`]", " ", line)
        column = len(bare) - len(bare.lstrip())
        names = re.split(r"\s{2,}", bare.strip())[0].split()
        while folders and folders[-1][0] >= column:
            folders.pop()
        parent = folders[-1][1] if folders else ""
        paths += [parent + n for n in names if n != "./"]
        if len(names) == 1 and names[0].endswith("/") and names[0] != "./":
            folders.append((column, parent + names[0]))
    return paths


def test_what_the_readme_tree_names_exists():
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    named = tree_paths(text)
    assert [p for p in named if not (ROOT / p).exists()] == []
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize(
    "block",
    [
        "README.md setup.py   the top\ntmi/\n  config.py   one schema\n  media/   senses\n"
        "    audio.py text.py   wave, words\n  train/\ntests/   mirrors",
        "README.md setup.py   the top\ntmi/\n├── config.py   one schema\n├── media/   senses\n"
        "│   └── audio.py text.py   wave, words\n└── train/\ntests/   mirrors",
    ],
)
def test_trees_are_read(block):
    assert set(tree_paths(f"# x\n{TREE_MARKER}\n\n```text\n{block}\n```\nafter")) == {
        "README.md", "setup.py", "tmi/", "tmi/config.py", "tmi/media/", "tmi/media/audio.py",
        "tmi/media/text.py", "tmi/train/", "tests/",
    }  # fmt: skip

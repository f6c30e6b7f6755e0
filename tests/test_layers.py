"""The plan of the house: who may import whom and what, and how long a module or a function may be."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "musedeep"
PATHS = sorted(PACKAGE.rglob("*.py"))

# Imports point down. Rooms of one level import each other only from `execute` and `plan` downwards.
LEVELS = [
    {"errors", "kernels", "kinds", "muse", "objects", "options", "presets", "progress",
     "reduction", "runlog", "settings", "thresholds"},
    {
        "accessor", "arena", "block", "correlation", "depth", "exposures", "field", "fitsstream", "grid",
        "images", "keywords", "layout", "lineage", "lock", "masks", "names", "offsets", "picture", "pixtable",
        "reads", "recipe", "resolution", "shards", "simulate", "sky", "store", "versions", "weights",
        "witness", "access",
    },
    {"certificates", "clusters", "execute", "plan", "ranks", "submissions"},
    {"align", "combine", "ingest", "products", "reduce", "select", "validate"},
    {"qc"},
    {"apart", "demo", "explore", "monitor"},
    {"pipeline"},
    {"cli"},
    {"__main__"},
]  # fmt: skip
FREE_LEVELS = {0, 1, 2}
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

MAY_IMPORT = {
    "dask": {"accessor", "clusters", "combine", "explore"},
    "dask_jobqueue": {"clusters"},
    "distributed": {"certificates", "clusters", "monitor", "ranks", "submissions"},
    "obstore": {"objects"},
    "zarr": {"store"},
    "numba": {"kernels"},
    "matplotlib": {"accessor", "align", "demo", "picture", "qc"},
    "astropy.io.fits": {
        "align", "demo", "fitsstream", "grid", "images", "keywords", "offsets", "pixtable", "products",
        "qc", "reduce",
        "select", "simulate", "validate",
    },
    "click": {"cli"},
    "rich": {"cli", "progress"},
}  # fmt: skip


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(path):
    return str(path.relative_to(PACKAGE))


@cache
def parse(path):
    return ast.parse(path.read_text())


def imports_of(path, *, at_import=False):
    """Full names of what a module imports, lazily or not; of whole modules and of names out of them."""
    tree = parse(path)
    nodes = top_level(tree.body) if at_import else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import is one from the folder that many levels up.
            above = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top_level(body):
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for part in ("body", "orelse", "handlers", "finalbody"):
                yield from top_level(getattr(node, part, []))


def rooms_imported(path):
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("musedeep.")}
    return rooms & set(LEVEL_OF)


def test_the_checks_find_what_they_look_for(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "import os\ntry:\n    import zarr\nexcept ImportError:\n    pass\n"
        "def f():\n    from musedeep import cli\n    from astropy.io import fits\n"
    )
    assert {"zarr", "musedeep.cli", "astropy.io.fits"} <= set(imports_of(module))
    assert set(imports_of(module, at_import=True)) == {"os", "zarr"}
    assert rooms_imported(module) == {"cli"}


def test_every_module_has_its_level():
    rooms = {room_of(path) for path in PATHS} - {"__init__"}
    assert rooms <= set(LEVEL_OF), f"no level for {sorted(rooms - set(LEVEL_OF))}"


@pytest.mark.parametrize("path", [p for p in PATHS if room_of(p) != "__init__"], ids=name_of)
def test_imports_point_down(path):
    room = room_of(path)
    level = LEVEL_OF[room]
    for other in rooms_imported(path) - {room}:
        below = LEVEL_OF[other] < level or (LEVEL_OF[other] == level and level in FREE_LEVELS)
        assert below, f"{room} (level {level}) imports {other} (level {LEVEL_OF[other]})"


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_libraries_stay_in_their_rooms(library):
    users = {
        room_of(path)
        for path in PATHS
        if any(name == library or name.startswith(library + ".") for name in imports_of(path))
    }
    assert users <= MAY_IMPORT[library], f"{library} is imported by {sorted(users - MAY_IMPORT[library])}"


def test_kernels_import_numpy_and_numba_only():
    for path in PATHS:
        if room_of(path) == "kernels":
            others = {name.split(".")[0] for name in imports_of(path)} - {
                "musedeep",
                *sys.stdlib_module_names,
            }
            assert others <= {"numpy", "numba"}, path
            assert rooms_imported(path) <= {"kernels"}, path


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # What only some wish for is imported where they ask for it.
    declared = [*project["dependencies"]]
    for extra in ("notebook", "cluster", "s3"):
        declared += project["optional-dependencies"][extra]
    declared = {re.match(r"[\w-]+", text)[0].lower().replace("_", "-") for text in declared}
    homes = packages_distributions()
    for path in PATHS:
        for name in {name.split(".")[0] for name in imports_of(path)} - {
            "musedeep",
            *sys.stdlib_module_names,
        }:
            distributions = {home.lower().replace("_", "-") for home in homes[name]}
            assert distributions & declared, (
                f"{path.name} imports {name}, which pyproject.toml does not declare"
            )


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_modules_and_functions_stay_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 500
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 90, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_public_names_are_listed_and_explained(path):
    tree = parse(path)
    assert ast.get_docstring(tree) or not path.read_text().strip(), "the module has no docstring"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets)
    ]
    assert listed or not public, "the module has no __all__"
    for node in public:
        assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_public_functions_do_not_hide_modules():
    import musedeep

    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir()}
    assert not set(musedeep.__all__) & modules


def test_every_public_name_exists():
    import musedeep

    for name in musedeep.__all__:
        assert getattr(musedeep, name) is not None
    assert set(musedeep.__all__) <= set(dir(musedeep))
    with pytest.raises(AttributeError, match="no attribute 'combine_everything'"):
        _ = musedeep.combine_everything


@pytest.mark.parametrize("module", ["musedeep", "musedeep.cli"])
def test_import_waits_for_no_heavy_library(module):
    heavy = "numba zarr dask distributed xarray matplotlib scipy astropy rich".split()
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_no_file_names_a_machine_or_a_host():
    words = re.compile(r"/(work|farm|root)/|/tmp/[a-z]|pypi\.org|python" + r"hosted|https?://[^ ]*/simple\b")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".cff", ".yaml", ""} and path.exists():
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
                assert not words.search(line) or path == Path(__file__), f"{name}:{number}: {line}"

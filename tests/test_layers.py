"""The house rule: a module imports from lower layers only, and heavy libraries come in through one door each."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "easi3r_ns"

# Rank by module or package; a package's own modules may import each other. The tens are the layers, the ones order
# modules inside a layer.
RANKS = {
    "": 0,
    "errors": 0,
    "budget": 1,
    "config": 1,
    "rows": 1,
    "runlog": 1,
    "types": 1,
    "geometry": 2,
    "similarity": 2,
    "files": 2,
    "spill": 2,
    "surface": 3,
    "cache": 2,
    "frames": 10,
    "pairs": 10,
    "windows": 10,
    "user_masks": 10,
    "backbone": 10,
    "synthetic": 10,
    "attention": 20,
    "kmeans": 20,
    "flow": 20,
    "flow_raft": 22,
    "align": 20,
    "refine": 20,
    "dynamic": 21,
    "motion_geometry": 22,
    "inference": 21,
    "calibration": 22,
    "loops": 24,
    "network_stage": 27,
    "long_clips": 28,
    "pipeline": 30,
    "pipeline_geometric": 31,
    "pose_frames": 31,
    "export": 30,
    "importers": 30,
    "evaluate": 30,
    "view": 30,
    "forecast": 31,
    "plan": 32,
    "training": 31,
    "report_card": 34,
    "run": 35,
    "parts": 36,
    "bridge": 40,
    "dataparser": 40,
    "display": 40,
    "method": 41,
    "options": 41,
    "doctor": 41,
    "processor": 42,
    "evaluation": 42,
    "planning": 42,
    "reporting": 42,
    "viewing": 42,
    "exporting": 42,
    "importing": 42,
    "cli": 43,
    "__main__": 44,
}
SCENE_ONLY = {"export", "importers", "evaluate", "view"}
"""Need a Scene, not a solver: they import layer 0 only."""
FORBIDDEN = {"align": {"attention", "dynamic"}}
COMMANDS = {"exporting", "importing", "planning", "reporting", "viewing"}
DOORS = {
    "nerfstudio": {"dataparser", "export.loadback", "method"},
    "pytorch_msssim": {"method"},
    "open3d": {"dataparser", "doctor", "export.pointcloud", "export.mesh", "export.tsdf", "view"},
    "viser": {"view"},
    "rerun": {"export.rerun_file"},
    "pycolmap": {"refine"},
    "transformers": {"masks_sam2"},
    "huggingface_hub": {"backbone.sources"},
    "evo": {"evaluate.trajectory"},
    "av": {"frames", "doctor", "synthetic", "evaluate", "view"},
    "matplotlib": {"view", "training", "evaluate"},
    "tyro": {"bridge", "cli", "evaluation", "options", "processor", "training"} | COMMANDS,
    "rich": {"cli", "display", "evaluation", "processor", "training"} | COMMANDS,
}


def modules() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def dotted(path: Path) -> str:
    """easi3r_ns/align/init.py -> align.init; easi3r_ns/align/__init__.py -> align."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
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
    for name, line in imports(path, source):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        top = name.split(".")[0]
        if top == PACKAGE:
            target = room(name[len(PACKAGE) + 1 :])
            if target == room(module):
                continue
            if RANKS[target] >= RANKS[room(module)]:
                found.append(f"{where}, which is not in a lower layer")
            elif room(module) in SCENE_ONLY and RANKS[target] >= 10:
                found.append(f"{where}: {room(module)} may import layer 0 only")
            elif target in FORBIDDEN.get(room(module), ()):
                found.append(f"{where}, which it must not know")
        elif top in DOORS and not {module, room(module)} & DOORS[top]:
            found.append(f"{where}: only {', '.join(sorted(DOORS[top]))} may")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_module_keeps_the_rule(path: Path) -> None:
    assert room(dotted(path)) in RANKS, f"{path.name} has no layer yet: give it a rank in this test"
    assert violations(path) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("pairs.py", "from .pipeline import reconstruct"),
        ("pairs.py", "from .backbone.model import DUSt3R"),
        ("pairs.py", "from . import frames"),
        ("types.py", "from . import geometry"),
        ("align/terms.py", "from ..attention import EPS"),
        ("export/nerfstudio.py", "from ..backbone import weights"),
        ("export/nerfstudio.py", "def f():\n    import easi3r_ns.pipeline"),
        ("pipeline.py", "import open3d as o3d"),
        ("geometry.py", "if True:\n    from nerfstudio.cameras import cameras"),
    ],
)
def test_the_rule_can_be_broken(where: str, line: str) -> None:
    assert len(violations(ROOT / PACKAGE / where, line)) == 1


def test_top_level_stays_clean() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    allowed = {".ci", ".gitignore", "LICENSE", "README.md", "easi3r_ns", "examples", "pyproject.toml", "tests"}
    assert {Path(line).parts[0] for line in tracked.stdout.splitlines()} <= allowed


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


HEAVY = {"torch", "nerfstudio", "open3d", "viser", "pycolmap", "cv2", "sklearn", "skimage"}


def test_import_is_light() -> None:
    assert not loaded_by("import easi3r_ns") & (HEAVY | {"numpy", "tyro", "rich"})


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["view", "--help"], ["weights", "--help"], ["--version"]]
)
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        f"from easi3r_ns.cli import main\ntry:\n    main({arguments})\nexcept SystemExit as e:\n    assert e.code == 0"
    )
    assert not loaded_by(code) & HEAVY

"""One scene, several formats, one folder: which files each format has, and what writes them.

All geometry is in the world of the dataset's ``transforms.json`` (z up, the first camera near the origin).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from ..core.config import EXPORT_FORMATS, ExportConfig, MeshConfig
from ..core.errors import InputError, OutputError
from ..core.geometry import Z_UP_FROM_OPENCV_WORLD
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..storage.files import make_folder
from ..storage.owned import claim, owned_files, settle
from .cloud import cloud_files, write_clouds
from .colmap import colmap_files, write_colmap
from .mesh import dynamic_mesh, static_mesh
from .meshfile import write_mesh
from .rerun_file import write_rrd
from .scene_glb import write_scene_glb
from .triangles import Mesh
from .tum import write_tum

MESH_FILES = ("mesh.ply", "mesh.obj", "mesh.glb")
TRAJECTORY = "trajectory_tum.txt"
SCENE_GLB = "scene.glb"
RECORDING = "scene.rrd"


def export_scene(
    scene: Scene,
    output_dir: Path,
    formats: Sequence[str],
    config: ExportConfig,
    log: RunLog,
    *,
    mesh: MeshConfig = MeshConfig(),
    overwrite: bool = False,
) -> dict[str, list[str]]:
    """Write ``scene`` into ``output_dir`` and return, by format, the files written, relative to it.

    The scene is only read; the same scene gives identical bytes (but for ``rerun``). What an earlier export wrote is
    replaced with ``overwrite`` and refused without; files that are not ours stay.

    Raises InputError for an unknown format or a scene that does not have what a format needs, OutputError when files
    are in the way or the disk refuses, MissingExtraError when a library is missing.
    """
    unknown = [name for name in formats if name not in EXPORT_FORMATS]
    if unknown or not formats:
        raise InputError(f"--format {' '.join(unknown)}: choose from {', '.join(EXPORT_FORMATS)}")
    if "dynamic-mesh" in formats and not scene.has_depth:
        raise InputError("--format dynamic-mesh: the scene has no depth; run again with network weights, which give it")
    for name in formats:
        if owned_files(output_dir, _group(name)) and not overwrite:
            raise OutputError(
                f"{output_dir} already holds an export as {name}: choose another --output-dir, or replace it with "
                "--overwrite"
            )
    writers = _Writers(scene, output_dir, config, mesh)
    done = {}
    for name in dict.fromkeys(formats):
        possible, write = writers.of(name)
        with log.stage(f"export {name}"):
            claim(output_dir, possible, group=_group(name))
            done[name] = sorted(path.relative_to(output_dir).as_posix() for path in write())
            settle(output_dir, done[name], group=_group(name))
    return done


def _group(name: str) -> str:
    return f"export {name}"


class _Writers:
    """What writes each format; the static mesh, which two of them hold, is made once."""

    def __init__(self, scene: Scene, folder: Path, config: ExportConfig, mesh: MeshConfig) -> None:
        self.scene, self.folder, self.config, self.mesh = scene, folder, config, mesh

    def of(self, name: str) -> tuple[set[str], Callable[[], list[Path]]]:
        """Every file that a format may have, and the function that writes them and returns those that it has."""
        sheets = {_sheet_name(frame) for frame in range(len(self.scene))}
        table: dict[str, tuple[set[str], Callable[[], list[Path]]]] = {
            "mesh": (set(MESH_FILES), self._mesh),
            "dynamic-mesh": (sheets, self._dynamic_meshes),
            "cloud": (cloud_files(self.scene), self._clouds),
            "colmap": ({f"colmap/{file}" for file in colmap_files(self.scene)}, self._colmap),
            "tum": ({TRAJECTORY}, lambda: [write_tum(self.scene, self.folder / TRAJECTORY)]),
            "glb": ({SCENE_GLB}, self._glb),
            "rerun": ({RECORDING}, self._rerun),
        }
        return table[name]

    @cached_property
    def _static(self) -> Mesh:
        return static_mesh(self.scene, self.mesh, self.config.mask_growth)

    def _mesh(self) -> list[Path]:
        mesh = self._static.moved(Z_UP_FROM_OPENCV_WORLD)
        return [write_mesh(mesh, self.folder / name) for name in MESH_FILES]

    def _dynamic_meshes(self) -> list[Path]:
        written = []
        make_folder(self.folder / "dynamic_mesh")
        for frame in range(len(self.scene)):
            mesh = dynamic_mesh(self.scene, frame).moved(Z_UP_FROM_OPENCV_WORLD)
            if len(mesh.triangles):
                written.append(write_mesh(mesh, self.folder / _sheet_name(frame)))
        return written

    def _clouds(self) -> list[Path]:
        return write_clouds(self.scene, self.folder, **self._options())

    def _colmap(self) -> list[Path]:
        write_colmap(self.scene, self.folder / "colmap", **self._options(), undistort=self.config.undistort)
        return [self.folder / "colmap" / file for file in colmap_files(self.scene)]

    def _glb(self) -> list[Path]:
        mesh = self._static if self.scene.has_depth else None
        return [write_scene_glb(self.scene, self.folder / SCENE_GLB, mesh, **self._options())]

    def _rerun(self) -> list[Path]:
        return [write_rrd(self.scene, self.folder / RECORDING, **self._options())]

    def _options(self) -> dict[str, int]:
        return {"mask_growth": self.config.mask_growth, "max_points": self.config.max_points}


def _sheet_name(frame: int) -> str:
    return f"dynamic_mesh/frame_{frame + 1:05d}.ply"

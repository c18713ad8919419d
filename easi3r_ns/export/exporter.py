"""What a format is made of, and what it gets to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import ExportConfig, MeshConfig
from ..core.errors import InputError
from ..core.geometry import intrinsics_to_source, is_distorted, off_centre
from ..core.scene import Scene

if TYPE_CHECKING:
    from .mesh.triangles import Mesh


@dataclass(frozen=True)
class ExportJob:
    """A scene on its way into a folder."""

    scene: Scene
    folder: Path
    """Where the files of all formats go."""
    config: ExportConfig
    mesh: MeshConfig

    @cached_property
    def static_mesh(self) -> Mesh:
        """The static surface in the scene's world, made once for all formats that hold it.

        Raises InputError without depth or static surface, MissingExtraError without Open3D.
        """
        from .mesh.static import static_mesh

        return static_mesh(self.scene, self.mesh, self.config.mask_growth)

    @property
    def point_options(self) -> dict[str, Any]:
        """``mask_growth`` and ``max_points`` of the options."""
        return {"mask_growth": self.config.mask_growth, "max_points": self.config.max_points}

    @property
    def most_start_points(self) -> int:
        """Most points from depth that training starts from."""
        return min(self.config.max_points, self.config.max_init_points)


def _nothing(scene: Scene) -> None:
    """Any scene will do."""


def _silent(job: ExportJob) -> list[str]:
    """Nothing to say."""
    return []


@dataclass(frozen=True)
class Exporter:
    """One format. Its module holds one under the name ``EXPORTER`` and is listed in :mod:`easi3r_ns.export`."""

    files: Callable[[ExportJob], set[str]]
    """Every file that the format may have, relative to the folder, with ``/``."""
    write: Callable[[ExportJob], list[Path]]
    """Writes the files and returns those that it has written. The same scene gives identical bytes where possible."""
    needs: Callable[[Scene], None] = _nothing
    """Raises InputError or MissingExtraError, with the remedy, where the scene or this machine lacks what the format
    needs; called before anything is written."""
    says: Callable[[ExportJob], list[str]] = _silent
    """Sentences about what was written that decide how it can be used: which readers refuse it, what was changed."""


def between_remark(scene: Scene) -> list[str]:
    """What a format says that leaves frames in between out: they have no depth and are in no track."""
    if scene.between is None:
        return []
    return [f"the {len(scene.between)} frames in between are left out; the dataset and --format dnerf have them"]


def undistorted_remark(scene: Scene, *, border: str = "and masked") -> list[str]:
    """What is said where a format takes no distortion and the lens has some.

    ``border``: what becomes of pixels that the source does not show, beside that they are black.
    """
    if not is_distorted(scene.distortion):
        return []
    return [
        f"images are undistorted (k1 {scene.distortion[0]:.4g}), because programs that read this format take no lens "
        f"distortion; what the source does not show is black, {border}"
    ]


def off_centre_remark(scene: Scene) -> list[str]:
    """What is said where some readers of a format take the principal point to be in the middle, and it is not."""
    _, _, cx, cy = intrinsics_to_source(scene.focals[0], scene.principal_point, scene.pixel_map)
    if not off_centre(cx, cy, *scene.pixel_map.source_wh):
        return []
    return [
        f"the principal point ({cx:.4g}, {cy:.4g}) is not in the middle of the image, as after a crop on one side: "
        "INRIA's gaussian-splatting, 4DGaussians and Deformable-3DGS take it to be there, and train on wrong cameras"
    ]


def require_depth(scene: Scene) -> None:
    """Raises InputError for a scene without depth."""
    if not scene.has_depth:
        raise InputError(
            "the scene has no depth and so no surface: run again without --depth none, or with network weights, or "
            "choose formats that need none, such as cloud, colmap, tum or glb"
        )


def require_moving_depth(scene: Scene) -> None:
    """Raises InputError for a scene in which something moves, but nothing that moves has a depth."""
    require_depth(scene)
    masks = scene.dynamic.masks
    if masks.any() and not (masks & (scene.depth > 0)).any():
        raise InputError(
            "nothing that moves has a measured depth: with --weights none stereo measures what stands still, and a "
            "depth that is assumed for viewing makes no mesh; run again with network weights, which give both"
        )


def require_images(scene: Scene) -> None:
    """Raises InputError when a source image of the scene is gone."""
    sources = [*scene.source_paths, *(scene.between.source_paths if scene.between else ())]
    missing = [source for source in sources if not source.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: this format needs the images of the scene where they were")


def require_points(scene: Scene) -> None:
    """Raises InputError for a scene without any point to start from."""
    if not scene.has_depth and scene.sparse is None:
        raise InputError("the scene has neither depth nor points: run again with network weights, which give depth")

"""The static background of a dataset as one mesh, without what moves.

    python examples/03_mesh.py [--dataset out/example] [--output mesh.ply]

`easi3r export DATASET --format mesh` does the same and writes .ply, .obj and .glb. Needs a dataset with depth (any
weights but `none`), for example that of 01_clip_to_dataset.py.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from easi3r_ns.core.config import MeshConfig
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.export.mesh.files import write_mesh
from easi3r_ns.export.mesh.static import static_mesh


def main(
    dataset: Path = Path("out/example"), output: Path = Path("out/example_mesh.ply"), max_triangles: int = 100_000
) -> None:
    """Fuse the depth maps of ``dataset`` and write the surface to ``output`` (.ply, .obj or .glb)."""
    scene = find_scene(dataset)
    mesh = static_mesh(scene, MeshConfig(max_triangles=max_triangles))
    # A Scene has its first camera's axes (y down); transforms.json and what is made from it have z up.
    write_mesh(mesh.moved(Z_UP_FROM_OPENCV_WORLD), output)
    print(f"{output}: {len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles, from {len(scene)} frames")


if __name__ == "__main__":
    tyro.cli(main)

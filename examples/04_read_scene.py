"""What a reconstruction holds, in NumPy: cameras, lens, masks, depth, points, uncertainty.

    python examples/04_read_scene.py [--dataset out/example] [--frame 0]

Reads the folder `scene` of a dataset, which holds the whole reconstruction without loss; `transforms.json` beside it
holds what nerfstudio wants of it. The units of all lengths are those of the scene, not metres.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

from easi3r_ns.core.geometry import intrinsics_to_source
from easi3r_ns.core.surface import solid_pixels, world_points
from easi3r_ns.dataset.scene_folder import find_scene


def main(dataset: Path = Path("out/example"), frame: int = 0) -> None:
    """Print what ``dataset`` holds, and what is known of one of its frames."""
    scene = find_scene(dataset)
    height, width = scene.images.shape[1:3]
    path = np.linalg.norm(np.diff(scene.T_world_cam[:, :3, 3], axis=0), axis=1).sum()
    print(f"{len(scene)} frames of {scene.names[0]}, {width}x{height} pixels each on the network's grid")
    print(f"camera path: {path:.3f} long; last camera at {np.round(scene.T_world_cam[-1, :3, 3], 3)}")
    print(f"weights: {scene.provenance.get('weights', {}).get('name')}; motion by {scene.dynamic.source}")

    fx, fy, cx, cy = intrinsics_to_source(scene.focals[frame], scene.principal_point, scene.pixel_map)
    print(f"frame {frame} at {scene.times[frame]:.3f} s: fx {fx:.1f}, fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f} source px")
    if scene.uncertainty is not None:
        position, turn = scene.uncertainty.centre[frame], scene.uncertainty.rotation_deg[frame]
        print(f"its camera is known to {position:.3f} units and {turn:.2f} degrees (1 sigma)")
    if scene.pose_sources is not None:
        print(f"its camera comes from: {scene.pose_sources[frame]}")
    static = solid_pixels(scene, frame) & ~scene.dynamic.masks[frame]
    points = world_points(scene, frame)[static]  # (N, 3), x right, y down, z forward of the first camera
    colors = scene.images[frame][static]  # (N, 3) uint8 RGB
    print(f"{len(points)} static points at a median depth of {np.median(scene.depth[frame][static]):.2f} units")
    print(f"around {np.round(np.median(points, axis=0), 2)}, of mean colour {colors.mean(axis=0).astype(int)}")


if __name__ == "__main__":
    tyro.cli(main)

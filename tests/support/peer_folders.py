"""What the programs of other methods write for a clip, without our own writers (save for EXR files)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ns.export.exr import exr_bytes
from tests.support.set_layouts import FOCAL, WH, Made

K = np.array([[FOCAL, 0, (WH[0] - 1) / 2], [0, FOCAL, (WH[1] - 1) / 2], [0, 0, 1]])


def write_demo(folder: Path, made: Made) -> None:
    """MonST3R, Easi3R and VGGT4D."""
    folder.mkdir(parents=True)
    lines = []
    for k, (T, image) in enumerate(zip(made.T_world_cam, made.images, strict=True)):
        x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat()
        lines.append([float(k), *T[:3, 3], w, x, y, z])
        cv2.imwrite(str(folder / f"frame_{k:04d}.png"), image[..., ::-1])
        np.save(folder / f"frame_{k:04d}.npy", made.depth[k])
        cv2.imwrite(str(folder / f"dynamic_mask_{k}.png"), made.moving[k].astype(np.uint8) * 255)
    np.savetxt(folder / "pred_traj.txt", lines)
    np.savetxt(folder / "pred_intrinsics.txt", [K.ravel()] * len(lines))


def write_masks(folder: Path, made: Made) -> None:
    """Masks alone."""
    folder.mkdir(parents=True)
    for k, moving in enumerate(made.moving):
        cv2.imwrite(str(folder / f"{k}.png"), moving.astype(np.uint8) * 255)


def write_cut3r(folder: Path, made: Made) -> None:
    for name in ("camera", "depth", "conf", "color"):
        (folder / name).mkdir(parents=True)
    for k, T in enumerate(made.T_world_cam):
        np.savez(folder / "camera" / f"{k:06d}", pose=T, intrinsics=K)
        np.save(folder / "depth" / f"{k:06d}", made.depth[k])
        np.save(folder / "conf" / f"{k:06d}", np.ones_like(made.depth[k]))
        cv2.imwrite(str(folder / "color" / f"{k:06d}.png"), made.images[k][..., ::-1])


def write_megasam(folder: Path, made: Made) -> None:
    (folder / "outputs_cvd").mkdir(parents=True)
    (folder / "reconstructions" / "x").mkdir(parents=True)
    np.save(folder / "reconstructions" / "x" / "motion_prob.npy", made.moving.astype(np.float32))
    arrays = {"images": made.images, "depths": made.depth, "intrinsic": K, "cam_c2w": made.T_world_cam}
    np.savez(folder / "outputs_cvd" / "x_sgd_cvd_hr.npz", **arrays)


def write_vipe(folder: Path, made: Made) -> None:
    for name in ("rgb", "pose", "intrinsics", "depth", "mask"):
        (folder / name).mkdir(parents=True)
    (folder / "rgb" / "x.mp4").write_bytes(b"no picture is read")
    inds = np.arange(len(made.images))
    lens = np.array([FOCAL, FOCAL, WH[0] / 2, WH[1] / 2])
    np.savez(folder / "pose" / "x.npz", data=made.T_world_cam.astype(np.float32), inds=inds)
    np.savez(folder / "intrinsics" / "x.npz", data=np.tile(lens, (len(inds), 1)).astype(np.float32), inds=inds)
    with (
        zipfile.ZipFile(folder / "depth" / "x.zip", "w") as depths,
        zipfile.ZipFile(folder / "mask" / "x.zip", "w") as m,
    ):
        for k in inds:
            depths.writestr(f"{k:05d}.exr", exr_bytes(made.depth[k]))
            m.writestr(f"{k:05d}.png", cv2.imencode(".png", made.moving[k].astype(np.uint8))[1].tobytes())


def write_da3(folder: Path, made: Made) -> None:
    (folder / "exports" / "npz").mkdir(parents=True)
    np.savez(
        folder / "exports" / "npz" / "results.npz",
        image=made.images,
        depth=made.depth,
        conf=np.ones_like(made.depth),
        extrinsics=np.linalg.inv(made.T_world_cam)[:, :3].astype(np.float32),
        intrinsics=np.tile(K, (len(made.images), 1, 1)).astype(np.float32),
    )


WRITERS: dict[str, Callable[[Path, Made], None]] = {
    "easi3r": write_demo,
    "monst3r": write_demo,
    "vggt4d": write_demo,
    "das3r": write_masks,
    "cut3r": write_cut3r,
    "megasam": write_megasam,
    "vipe": write_vipe,
    "da3": write_da3,
}
"""Name of a folder of ``--peers`` -> who writes such folders."""

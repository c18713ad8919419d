"""Scene -> the artefacts of ViPE (https://github.com/nv-tlabs/vipe), which its tools and 3DGRUT read.

::

    rgb/NAME.mp4               the frames, undistorted
    pose/NAME.npz              data (F, 4, 4) float32 camera-to-world with OpenCV axes, inds (F,) frames of the video
    intrinsics/NAME.npz        data (F, 4) float32 fx fy cx cy in pixels of the video, inds (F,)
    intrinsics/NAME_camera.txt    ``0: PINHOLE``, ... for every frame
    depth/NAME.zip             00000.exr, ...: channel Z, half floats, z-depth in scene units, 0 where unknown
    mask/NAME.zip, NAME.txt    00000.png, ...: 8 bit, 1 where something moves, 0 elsewhere; what the numbers mean

At source resolution, without the last row or column where a side is odd: the video needs even sides. The world is that
of ``transforms.json`` (z up). A scene without depth has no ``depth/``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..core.geometry import Z_UP_FROM_OPENCV_WORLD
from ..core.scene import Scene
from ..storage.files import make_folder, replacing, write_bytes, write_npz
from ..storage.video import write_video
from .exporter import Exporter, ExportJob, between_remark, require_images, undistorted_remark
from .exr import exr_bytes
from .megasam import clip_name
from .views import SourceViews

_FOLDER = "vipe"
_PHRASES = "0: static\n1: moving\n"


def vipe_files(scene: Scene) -> set[str]:
    """Every file that the format writes, relative to its folder."""
    name = clip_name(scene)
    files = {f"rgb/{name}.mp4", f"pose/{name}.npz", f"intrinsics/{name}.npz", f"intrinsics/{name}_camera.txt"}
    files |= {f"mask/{name}.zip", f"mask/{name}.txt"}
    return files | ({f"depth/{name}.zip"} if scene.has_depth else set())


def write_vipe(scene: Scene, path: Path, *, mask_growth: float = 3) -> Path:
    """Write ``scene`` into the folder ``path`` and return it.

    Moving regions are grown by ``mask_growth`` network pixels in the masks. Raises InputError when a source image is
    gone, OutputError when the disk or the encoder refuses.
    """
    require_images(scene)
    views, name, frames = SourceViews(scene, undistort=True), clip_name(scene), range(len(scene))
    for file in vipe_files(scene):
        make_folder((path / file).parent)
    focals = scene.focals.tolist()
    pictures = (_even(views.image(source, focal)) for source, focal in zip(scene.source_paths, focals))
    write_video(path / f"rgb/{name}.mp4", pictures, _rate(scene.clock))
    inds = np.arange(len(scene))
    poses = (Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam).astype(np.float32)
    write_npz(path / f"pose/{name}.npz", {"data": poses, "inds": inds})
    lenses = np.array([(focal, focal, *centre) for focal, centre in map(views.lens, focals)], dtype=np.float32)
    write_npz(path / f"intrinsics/{name}.npz", {"data": lenses, "inds": inds})
    write_bytes(path / f"intrinsics/{name}_camera.txt", "".join(f"{frame}: PINHOLE\n" for frame in frames).encode())

    def moving(frame: int) -> bytes:
        static = views.static(scene.dynamic.masks[frame], focals[frame], mask_growth)
        return _png((~_even(static) & _even(views.seen(focals[frame]))).astype(np.uint8))

    _write_zip(path / f"mask/{name}.zip", "png", frames, moving)
    write_bytes(path / f"mask/{name}.txt", _PHRASES.encode())
    if scene.has_depth:
        _write_zip(path / f"depth/{name}.zip", "exr", frames, lambda frame: exr_bytes(_even(views.depth(frame))))
    return path


def _even(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return image[: height - height % 2, : width - width % 2]


def _rate(times: np.ndarray) -> Fraction:
    """Frames per second of the video: that of the frames, or 1 for a single one."""
    gaps = np.diff(times)
    gaps = gaps[gaps > 0]
    return Fraction(1 / float(np.median(gaps)) if len(gaps) else 1.0).limit_denominator(1000)


def _png(image: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()


def _write_zip(path: Path, suffix: str, frames: Iterable[int], content: Callable[[int], bytes]) -> None:
    """Write ``00000.SUFFIX``, ... into an archive, atomically; equal contents give equal bytes. Raises OutputError."""
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for frame in frames:
            # Opened by name, a member has a fixed date.
            archive.writestr(zipfile.ZipInfo(f"{frame:05d}.{suffix}"), content(frame), zipfile.ZIP_DEFLATED)


def _write(job: ExportJob) -> list[Path]:
    write_vipe(job.scene, job.folder / _FOLDER, mask_growth=job.config.mask_growth)
    return [job.folder / _FOLDER / file for file in vipe_files(job.scene)]


def _says(job: ExportJob) -> list[str]:
    border = "and has no depth" if job.scene.has_depth else "and in no mask"
    remarks = undistorted_remark(job.scene, border=border) + between_remark(job.scene)
    return remarks if job.scene.has_depth else [*remarks, "the scene has no depth, so there is no depth/"]


EXPORTER = Exporter(
    files=lambda job: {f"{_FOLDER}/{file}" for file in vipe_files(job.scene)},
    write=_write,
    needs=require_images,
    says=_says,
)

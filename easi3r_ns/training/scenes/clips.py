"""Short clips with known cameras, depth, moving objects, flow and correspondences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...core.geometry import pixel_grid, project, transform, unproject
from .cameras import HFOV_DEGREES, focal_from_fov, handheld_path
from .raycast import RenderCameras, render
from .scene import SceneOptions, SyntheticScene, make_scene, object_poses


@dataclass(frozen=True)
class Clip:
    """A rendered clip and the exact truth about it. Pixel centres at integers, cameras OpenCV, z-depth in metres."""

    images: np.ndarray
    """(F, H, W, 3) uint8 RGB with blur and sensor noise."""
    depth: np.ndarray
    """(F, H, W) float32 z-depth, known everywhere."""
    object_id: np.ndarray
    """(F, H, W) int16: 0 the room, k + 1 solid k."""
    moving: np.ndarray
    """(F, H, W) bool: True where an object that moves is seen. All False in a frozen clip."""
    would_move: np.ndarray
    """(F, H, W) bool: like ``moving``, but a frozen clip keeps the objects that move in its twin."""
    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world."""
    T_world_object: np.ndarray
    """(F, K + 1, 4, 4) float64 object-to-world; entry 0 is the room (identity)."""
    focal: float
    """Pixels."""
    principal_point: np.ndarray
    """(2,) ((W - 1) / 2, (H - 1) / 2)."""
    times: np.ndarray
    """(F,) seconds."""
    mover_ids: tuple[int, ...]
    """Object ids of what moves (or would move)."""
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def points(self, frame: int) -> np.ndarray:
        """(H, W, 3) world coordinates of every pixel of a frame."""
        local = unproject(self.depth[frame].astype(float), self.focal, self.principal_point)
        return transform(self.T_world_cam[frame], local)


@dataclass(frozen=True)
class ClipOptions:
    """How a clip is taken."""

    fps: float = 12.0
    supersample: int = 1
    """Colours average this number of rays squared per pixel."""
    noise: float = 1.5
    """Deviation of the sensor noise in grey levels (0..255); 0 with ``blur`` 0 gives exact colours."""
    blur: float = 0.4
    """Deviation of the lens blur in pixels."""
    family: str = "held_out"
    """Texture family; see :data:`~easi3r_ns.training.scenes.textures.FAMILIES`."""
    open_ground: bool | None = None
    shadows: bool | None = True


def render_clip(
    seed: int,
    num_frames: int,
    height: int,
    width: int,
    num_movers: int = 2,
    frozen: bool = False,
    device: str = "cpu",
    options: ClipOptions = ClipOptions(),
) -> Clip:
    """Render the clip that ``seed`` names; cameras, scene and field of view do not depend on the image size.

    ``frozen`` gives the twin: the same cameras, the same objects, at rest. Outside the movers (of either twin) the two
    clips have identical pixels, sensor noise included.
    """
    times = np.arange(num_frames) / options.fps
    scene = make_scene(
        seed, SceneOptions(options.family, num_movers, max(times[-1], 1e-3), options.shadows, options.open_ground)
    )
    rs = np.random.RandomState([seed % 2**32, num_movers, 77])
    poses = handheld_path(scene, times, rs)
    focal = focal_from_fov(rs.uniform(*HFOV_DEGREES), height, width)
    return film(
        scene.at_rest() if frozen else scene, scene.mover_ids, poses, focal, (height, width), times, options, device
    )


def film(
    scene: SyntheticScene,
    mover_ids: tuple[int, ...],
    T_world_cam: np.ndarray,
    focal: float,
    size: tuple[int, int],
    times: np.ndarray,
    options: ClipOptions = ClipOptions(),
    device: str = "cpu",
) -> Clip:
    """Render a scene along a camera path; ``size`` is (H, W). Frame by frame, so that memory stays small."""
    frames = []
    for index, (pose, time) in enumerate(zip(T_world_cam, times, strict=True)):
        cameras = RenderCameras(pose[None, None], np.array([[focal]]), np.array([[time]]), *size)
        shot = render([scene], cameras, options.supersample, device)
        image = expose(shot.colour[0, 0], options, [scene.seed % 2**32, index])
        frames.append((image, shot.depth[0, 0].cpu().numpy(), shot.object_id[0, 0].cpu().numpy().astype(np.int16)))
    images, depth, object_id = (np.stack(column) for column in zip(*frames, strict=True))
    would_move = np.isin(object_id, mover_ids)
    return Clip(
        images=images,
        depth=depth,
        object_id=object_id,
        moving=np.isin(object_id, scene.mover_ids),
        would_move=would_move,
        T_world_cam=np.asarray(T_world_cam, dtype=float),
        T_world_object=object_poses(scene, times),
        focal=float(focal),
        principal_point=np.array([(size[1] - 1) / 2, (size[0] - 1) / 2]),
        times=np.asarray(times, dtype=float),
        mover_ids=tuple(mover_ids),
        seed=scene.seed,
    )


def expose(colour: torch.Tensor, options: ClipOptions, noise_seed: list[int]) -> np.ndarray:
    """(H, W, 3) colours in [0, 1] -> uint8 with lens blur and sensor noise that depends on the seed alone."""
    image = colour.permute(2, 0, 1)[:, None]
    if options.blur > 0:
        radius = max(1, int(np.ceil(3 * options.blur)))
        offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / options.blur) ** 2)
        kernel = kernel / kernel.sum()
        image = torch.nn.functional.pad(image, (radius,) * 4, mode="replicate")
        image = torch.nn.functional.conv2d(image, kernel.reshape(1, 1, -1, 1))
        image = torch.nn.functional.conv2d(image, kernel.reshape(1, 1, 1, -1))
    pixels = image[:, 0].permute(1, 2, 0).cpu().numpy() * 255
    if options.noise > 0:
        pixels = pixels + options.noise * np.random.RandomState(noise_seed).standard_normal(pixels.shape)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def correspondences(clip: Clip, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface seen in frame ``source`` is in frame ``target``, object motion included.

    Returns (H, W, 2) pixels (x, y) in the target (NaN behind the camera) and (H, W) bool: seen there, i.e. inside the
    image and not hidden (its depth agrees with the target's depth map at the nearest pixel within 2 %).
    """
    motion = clip.T_world_object[target] @ np.linalg.inv(clip.T_world_object[source])
    T = motion[clip.object_id[source]]
    moved = (T[..., :3, :3] @ clip.points(source)[..., None])[..., 0] + T[..., :3, 3]
    local = transform(np.linalg.inv(clip.T_world_cam[target]), moved)
    local[local[..., 2] <= 0] = np.nan
    xy = project(local, clip.focal, clip.focal, *clip.principal_point)
    height, width = clip.depth.shape[1:]
    column, row = np.moveaxis(np.nan_to_num(np.round(xy), nan=-1, posinf=-1, neginf=-1), -1, 0)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    same = clip.object_id[target][row, column] == clip.object_id[source]
    depth = np.nan_to_num(local[..., 2])
    return xy, inside & same & (np.abs(clip.depth[target][row, column] - depth) < 0.02 * depth)


def flow(clip: Clip, source: int, target: int) -> np.ndarray:
    """(H, W, 2) exact optical flow in pixels from frame ``source`` to ``target`` (also where hidden in the target)."""
    return correspondences(clip, source, target)[0] - pixel_grid(*clip.depth.shape[1:])

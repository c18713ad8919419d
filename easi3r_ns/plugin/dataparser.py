"""``easi3r-data``: nerfstudio's own dataparser, extended by time stamps and by clips whose camera stands still."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.io import load_from_json
from nerfstudio.utils.rich_utils import CONSOLE

from ..core.end_to_end import end_to_end
from ..storage.names import plain_name

_STILL = 0.01
"""Extent of the camera path as a share of the median distance of the points, below which the camera counts as still."""


@dataclass
class Easi3RDataParserConfig(NerfstudioDataParserConfig):
    """Dataset written by `ns-process-data easi3r`: as nerfstudio-data, with times and static points."""

    _target: type = field(default_factory=lambda: Easi3RDataParser)
    load_3D_points: bool = True
    """Start from the static points of the dataset (splatfacto)."""


@dataclass
class Easi3RDataParser(Nerfstudio):
    """Adds ``Cameras.times``: (N, 1) in [0, 1], 0 the first and 1 the last frame of the CLIP, for every split.

    Several clips of one scene follow one another, in the order of the dataset: what moves in them belongs to no common
    time.

    nerfstudio scales the scene by the extent of the camera path, which is close to zero for a clip from a tripod. For
    such a clip the median distance of the static points becomes 1 unit instead, unless ``auto_scale_poses`` is off.
    """

    config: Easi3RDataParserConfig
    includes_time: bool = True

    # The base class of all dataparsers takes keyword arguments that nerfstudio's own Nerfstudio does not.
    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:  # type: ignore[override]
        folder, meta = self._read_meta()
        chosen = self.config
        self.config = _scaled_by_points(chosen, meta, folder)
        try:
            outputs = super()._generate_dataparser_outputs(split)
        finally:
            self.config = chosen
        times = self._times_by_file(meta, folder)
        if times:
            stamps = [times[path] for path in outputs.image_filenames]
            outputs.cameras.times = torch.tensor(stamps, dtype=torch.float32)[:, None]
        return outputs

    def _load_3D_points(self, ply_file_path: Path, transform_matrix: torch.Tensor, scale_factor: float) -> Any:
        with plain_name(ply_file_path) as file:
            return super()._load_3D_points(file, transform_matrix, scale_factor)

    def _read_meta(self) -> tuple[Path, dict[str, Any]]:
        data = self.config.data
        file = data if data.suffix == ".json" else data / "transforms.json"
        return file.parent, load_from_json(file)

    def _times_by_file(self, meta: dict[str, Any], folder: Path) -> dict[Path, float]:
        frames = meta["frames"]
        if not all("time" in frame for frame in frames):
            CONSOLE.print("[bold yellow]Warning: not every frame has a time: Cameras.times is not set")
            return {}
        stamps = np.array([frame["time"] for frame in frames], dtype=float)
        if all("clip" in frame for frame in frames):
            stamps = end_to_end(stamps, np.array([frame["clip"] for frame in frames]))
        # Evaluation views come from another recording; times are normalised by the range of the clip alone.
        clip = set(meta.get("train_filenames", [frame["file_path"] for frame in frames]))
        inside = stamps[[frame["file_path"] in clip for frame in frames]]
        stamps = np.clip((stamps - inside.min()) / (np.ptp(inside) or 1.0), 0.0, 1.0)
        return {self._get_fname(Path(frame["file_path"]), folder): t for frame, t in zip(frames, stamps)}


def _scaled_by_points(config: Easi3RDataParserConfig, meta: dict[str, Any], folder: Path) -> Easi3RDataParserConfig:
    if not config.auto_scale_poses:
        return config
    centres = np.array([frame["transform_matrix"] for frame in meta["frames"]], dtype=float)[:, :3, 3]
    centre = centres.mean(axis=0)
    spread, distance = float(np.abs(centres - centre).max()), _median_distance(meta, folder, centre)
    if spread >= _STILL * distance and spread > 0:
        return config
    CONSOLE.print("[bold yellow]The camera hardly moves: the scene is scaled by its points, not by the camera path")
    return replace(config, auto_scale_poses=False, scale_factor=config.scale_factor / (distance or 1.0))


def _median_distance(meta: dict[str, Any], folder: Path, centre: np.ndarray) -> float:
    if "ply_file_path" not in meta:
        return 0.0
    import open3d

    with plain_name(folder / meta["ply_file_path"]) as file:
        points = np.asarray(open3d.io.read_point_cloud(file).points)
    return float(np.median(np.linalg.norm(points - centre, axis=1))) if len(points) else 0.0


Easi3RDataParserSpecification = DataParserSpecification(
    config=Easi3RDataParserConfig(),
    description="Dataset of ns-process-data easi3r: nerfstudio-data plus frame times and static points",
)

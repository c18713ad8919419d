"""nerfstudio's full-image datamanager, optionally with the depth maps of the dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.utils.data_utils import get_depth_image_from_path

from ...core.errors import InputError


class DepthMapDataset(InputDataset):
    """Images with ``depth_image``: (H, W, 1) float32 z-depth in units of the parsed cameras, 0 where unknown.

    Where a dataset has no depth maps, nerfstudio's own DepthDataset downloads a network and predicts them; this class
    raises InputError.
    """

    exclude_batch_keys_from_device = [*InputDataset.exclude_batch_keys_from_device, "depth_image"]

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        if self.metadata.get("depth_filenames") is None and len(self):
            raise InputError(
                f"the dataset of {self.image_filenames[0]} has no depth maps: write it with depths, or leave "
                "--pipeline.model.depth-weight at 0"
            )

    def get_metadata(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The depth map of the image ``data["image_idx"]``, on the grid on which nerfstudio trains."""
        index = data["image_idx"]
        camera = self.cameras[index]
        image = get_depth_image_from_path(
            filepath=self.metadata["depth_filenames"][index],
            height=int(camera.height),
            width=int(camera.width),
            scale_factor=self.metadata["depth_unit_scale_factor"] * self._dataparser_outputs.dataparser_scale,
        )
        depth = undistort_depth(image[..., 0].numpy().astype(np.float32), camera)
        return {"depth_image": torch.from_numpy(depth)[..., None]}


def undistort_depth(depth: np.ndarray, camera: Cameras) -> np.ndarray:
    """Resample a (H, W) depth map from distorted pixels to those of the pinhole camera that nerfstudio trains with.

    nerfstudio 1.1.5 undistorts image and mask (``_undistort_image``) but not the depth. Takes the nearest pixel,
    because an average across a depth edge belongs to neither surface. Raises InputError for a fisheye lens.
    """
    if camera.distortion_params is None or not bool(camera.distortion_params.any()):
        return depth
    if int(camera.camera_type) != CameraType.PERSPECTIVE.value:
        raise InputError("depth maps of a fisheye lens cannot be used: leave --pipeline.model.depth-weight at 0")
    k1, k2, k3, k4, p1, p2 = camera.distortion_params.tolist()
    lens = np.array([k1, k2, p1, p2, k3, k4, 0.0, 0.0])
    K = camera.get_intrinsics_matrices().numpy().astype(np.float64)
    K[:2, 2] -= 0.5
    size = depth.shape[1], depth.shape[0]
    pinhole, _ = cv2.getOptimalNewCameraMatrix(K, lens, size, 0)
    at_x, at_y = cv2.initUndistortRectifyMap(K, lens, np.eye(3), pinhole, size, cv2.CV_32FC1)
    return cv2.remap(depth, at_x, at_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


@dataclass
class Easi3RDatamanagerConfig(FullImageDatamanagerConfig):
    """Full images of a dataset of `ns-process-data easi3r`."""

    _target: type = field(default_factory=lambda: Easi3RDatamanager)
    load_depths: bool = False
    """Keep the depth maps in memory (4 bytes a pixel); switched on by --pipeline.model.depth-weight."""


class Easi3RDatamanager(FullImageDatamanager):
    """nerfstudio's, whose batches have a ``depth_image`` when ``load_depths`` is on."""

    config: Easi3RDatamanagerConfig

    @property
    def dataset_type(self) -> type[InputDataset]:
        """Class of the dataset that holds the images."""
        return DepthMapDataset if self.config.load_depths else InputDataset

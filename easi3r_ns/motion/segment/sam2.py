"""SAM 2 (Ravi et al., ICLR 2025) and EdgeTAM (Zhou et al., CVPR 2025) as trackers, through the library transformers.

Pictures and prompts are prepared as their authors do, by our own code: a folder needs config.json and the weights only.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import torch

from ...core.errors import MissingExtraError
from ...core.runlog import RunLog
from ...network.models import (
    ModelFiles,
    Role,
    find_model,
    lacks_library,
    load_model,
    one_line_when_full,
    require_transformers,
)
from ...storage.fingerprint import files_of, fingerprint
from .prompts import bounding_box, inner_points

SAM2, EDGETAM = "Sam2VideoModel", "EdgeTamVideoModel"
ROLE = Role(
    "--refine-masks",
    (SAM2, EDGETAM),
    ("sam2", "sam2-tiny", "sam2-base", "sam2-large", "edgetam"),
    "leave out --refine-masks",
)
TOLD, PREDICTED = 3, 3
"""Most frames that were told, and that were predicted, that an object's memory holds: together as many as SAM 2 was
trained with, less one."""
_SESSIONS = {SAM2: "Sam2VideoInferenceSession", EDGETAM: "EdgeTamVideoInferenceSession"}
IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_BOX = (2, 3)
"""Labels of the two corners of a box among points; 1 is a point on the object."""
_ONE = 1
"""Every session has one object."""
TIMM = ("timm", (1, 0))
"""The library with the encoder of EdgeTAM's published weights."""


class SeenPicture:
    """A picture as the model sees it."""

    def __init__(self, pixels: torch.Tensor, features: dict[str, Any]) -> None:
        self.pixels, self.features = pixels, features


class TransformersTracker:
    """:class:`~.tracker.ObjectTracker` of the classes in :data:`ROLE`; loaded when it is first used.

    Args:
        role: what it is used for; decides the words of errors.
    """

    def __init__(self, files: ModelFiles, device: torch.device, role: Role = ROLE) -> None:
        self.files, self._device, self._role = files, device, role
        self._content = fingerprint(files_of(files.folder))
        self._model: Any = None
        config = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
        size = config.get("image_size", 1024)
        self.side = int(size if isinstance(size, int) else size[0])

    @property
    def facts(self) -> dict[str, str]:
        """See :attr:`~.tracker.ObjectTracker.facts`."""
        return dict(self.files.provenance) | {"content": self._content}

    def try_out(self) -> None:
        """Load it and follow a square through a grey clip, so that what does not fit fails before the long work.

        Raises:
            Easi3RError: see :func:`~easi3r_ns.network.models.load_model`.
        """
        square = np.zeros((12, 16), dtype=bool)
        square[4:8, 4:8] = True
        memory = self.memory()
        for frame in range(2):
            seen = self.look(np.full((12, 16, 3), 128, np.uint8))
            memory.prompt(frame, seen, square) if frame == 0 else memory.predict(frame, seen, (12, 16))

    def look(self, image: np.ndarray) -> SeenPicture:
        """See :meth:`~.tracker.ObjectTracker.look`."""
        model = self.model
        pixels = torch.from_numpy(prepared(image, self.side)).to(self._device)
        with self.guarded(), torch.inference_mode():
            found = model.get_image_features(pixels, return_dict=True)
        features = {"vision_feats": found.fpn_hidden_states, "vision_pos_embeds": found.fpn_position_encoding}
        return SeenPicture(pixels, features)

    def memory(self) -> SessionMemory:
        """See :meth:`~.tracker.ObjectTracker.memory`."""
        return SessionMemory(self, getattr(require_transformers(self._role, self.files.name), self._session))

    def release(self) -> None:
        """See :meth:`~.tracker.ObjectTracker.release`; another use loads it again."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def model(self) -> Any:
        """The model on its device."""
        if self._model is None:
            self._model = load_model(self._role, self.files, self._device)
        return self._model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def guarded(self) -> Any:
        """A context in which a lack of memory becomes one line with the remedy."""
        return one_line_when_full(self._role, self.files.name, "choose a smaller model (sam2-tiny), or --device cpu")

    @property
    def _session(self) -> str:
        return _SESSIONS[self.files.architecture]


class SessionMemory:
    """:class:`~.tracker.ObjectMemory` in an inference session of transformers with one object.

    A session keeps all that it ever saw and computed; this one is relieved of it after every frame.
    """

    def __init__(self, tracker: TransformersTracker, session: Any) -> None:
        side, device = tracker.side, tracker.device
        self._tracker = tracker
        self._session = session(
            video_height=side,
            video_width=side,
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=torch.float32,
        )
        self._object = self._session.obj_id_to_idx(_ONE)

    def prompt(self, frame: int, seen: SeenPicture, mask: np.ndarray) -> None:
        """See :meth:`~.tracker.ObjectMemory.prompt`.

        Models that take masks are told the mask, others, and of masks too fine for the model's size, points inside and
        the box around.
        """
        side = self._tracker.side
        told = _at_size(mask, side)
        if told.any() and hasattr(self._tracker.model, "mask_downsample"):
            self._session.add_mask_inputs(self._object, frame, torch.from_numpy(told)[None, None].float())
        else:
            scale = np.array([side / mask.shape[1], side / mask.shape[0]], dtype=np.float32)
            points, box = (inner_points(mask) + 0.5) * scale, bounding_box(mask).reshape(2, 2) * scale
            coordinates = torch.from_numpy(np.concatenate([box, points]).astype(np.float32))[None, None]
            labels = torch.tensor([*_BOX, *[1] * len(points)], dtype=torch.int32)[None, None]
            told_points = {"point_coords": coordinates, "point_labels": labels}
            self._session.add_point_inputs(self._object, frame, told_points)
        self._session.obj_with_new_inputs = [_ONE]
        self._run(frame, seen)

    def predict(self, frame: int, seen: SeenPicture, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`~.tracker.ObjectMemory.predict`."""
        logits = self._run(frame, seen)
        return cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR)

    def segment(self, frame: int, seen: SeenPicture, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(h, w) float32, positive on what a box shows.

        ``box``: (4,) left, top, right, bottom in shares of the sides.
        """
        corners = torch.from_numpy(box.reshape(1, 1, 2, 2).astype(np.float32) * self._tracker.side)
        labels = torch.tensor(_BOX, dtype=torch.int32)[None, None]
        self._session.add_point_inputs(self._object, frame, {"point_coords": corners, "point_labels": labels})
        self._session.obj_with_new_inputs = [_ONE]
        return cv2.resize(self._run(frame, seen), size[::-1], interpolation=cv2.INTER_LINEAR)

    def _run(self, frame: int, seen: SeenPicture) -> np.ndarray:
        """(side / 4, side / 4) float32 logits of a frame; far below 0 where the object is not in it."""
        session = self._session
        session.cache.clear_all()
        session.cache.cache_vision_features(frame, seen.features)
        with self._tracker.guarded():
            out = self._tracker.model(session, frame_idx=frame, frame=seen.pixels)
            logits = out.pred_masks[0, 0].float().cpu().numpy()
        self._relieve(frame)
        return logits

    def _relieve(self, frame: int) -> None:
        session, own = self._session, self._object
        session.cache.clear_all()
        session.processed_frames.clear()
        for store in (session.point_inputs_per_obj, session.mask_inputs_per_obj):
            store[own].clear()
        outputs = session.output_dict_per_obj[own]
        for kind, most in (("cond_frame_outputs", TOLD), ("non_cond_frame_outputs", PREDICTED)):
            for old in sorted(outputs[kind])[:-most]:
                del outputs[kind][old]
            for kept in outputs[kind].values():
                for large in ("pred_masks", "high_res_masks"):
                    kept.pop(large, None)
        tracked = session.frames_tracked_per_obj[own]
        for old in [number for number in tracked if number < frame - 2 * PREDICTED]:
            del tracked[old]


def prepared(image: np.ndarray, side: int, statistics: tuple[np.ndarray, np.ndarray] = IMAGENET) -> np.ndarray:
    """(1, 3, side, side) float32: a picture (h, w, 3) uint8 in the size and range of values of the model's training.

    ``statistics``: mean and deviation (3,) of its values.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)[0]
    mean, deviation = (part[:, None, None] for part in statistics)
    return ((resized.numpy() / 255 - mean) / deviation)[None].astype(np.float32)


def _at_size(mask: np.ndarray, side: int) -> np.ndarray:
    """(side, side) bool: where at least half of a pixel is in the mask."""
    values = torch.from_numpy(mask)[None, None].float()
    resized = torch.nn.functional.interpolate(values, size=(side, side), mode="bilinear", antialias=True)
    return resized[0, 0].numpy() >= 0.5


def find_tracker(spec: str, log: RunLog, *, download: bool = True, role: Role = ROLE) -> ModelFiles:
    """The files of a model in :data:`ROLE`, and that the libraries are there to read them.

    Raises:
        Easi3RError: see :func:`~easi3r_ns.network.models.find_model`.
    """
    require_transformers(role, spec)
    files = find_model(role, spec, log, download=download)
    needs_timm = "timm_wrapper" in (files.folder / "config.json").read_text(encoding="utf-8")
    lacking = lacks_library(TIMM) if needs_timm else None
    if lacking is not None:
        raise MissingExtraError(
            f"{role.option} {spec} needs the library {lacking} (nerfstudio asks for an older one, which it does not "
            f"use); or give {role.option} sam2-tiny, or {role.without}"
        )
    return files

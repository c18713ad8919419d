"""Grounding DINO (Liu et al., ECCV 2024), boxes for words, through the library transformers.

Pictures and words are prepared as its authors do, by our own code: a folder needs config.json, tokenizer.json and the
weights only.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from ...core.errors import CheckpointError, InputError, shortened
from ...core.runlog import RunLog
from ...network.models import ModelFiles, Role, find_model, load_model, one_line_when_full, require_transformers
from ...storage.fingerprint import files_of, fingerprint
from .named import Detection
from .sam2 import EDGETAM, IMAGENET, SAM2, SeenPicture, TransformersTracker
from .sam3 import IMAGES, VIDEO, Sam3

OPTION = "--remove/--keep"
BOXES = "GroundingDinoForObjectDetection"
ROLE = Role(
    OPTION,
    (BOXES, IMAGES, VIDEO),
    ("grounding-dino", "grounding-dino-base", "sam3"),
    "leave out --remove and --keep",
    ("config.json", "tokenizer.json", "model.safetensors"),
)
SEGMENTER_ROLE = Role(
    OPTION, (SAM2, EDGETAM), ("sam2", "sam2-tiny", "sam2-base", "sam2-large", "edgetam"), ROLE.without
)
SURE = 0.35
"""Least score of a box: that of the authors' demonstrations. Not measured here."""
MOST_TOKENS = 256
"""Of all names together: the length of text that these models were trained with."""
SHORTER, LONGER = 800, 1333
"""Pixels of the sides of a picture: the shorter side has so many, unless the longer one would have more."""


class GroundingDino:
    """:class:`~.named.NamedDetector` of the class :data:`BOXES`; loaded when it is first used."""

    def __init__(self, files: ModelFiles, device: torch.device, *, shorter: int = SHORTER) -> None:
        self.files, self._device, self.side = files, device, shorter
        self._content = fingerprint(files_of(files.folder))
        self._model: Any = None
        self._tokens = _tokenizer(files)

    @property
    def facts(self) -> dict[str, str]:
        """See :attr:`~.named.NamedDetector.facts`."""
        return dict(self.files.provenance) | {"content": self._content}

    def detect(self, image: np.ndarray, names: tuple[str, ...]) -> list[Detection]:
        """See :meth:`~.named.NamedDetector.detect`."""
        if self._model is None:
            self._model = load_model(ROLE, self.files, self._device)
        ids, spans = self._words(names)
        text = torch.tensor([ids], device=self._device)
        pixels = torch.from_numpy(self._prepared(image)).to(self._device)
        with one_line_when_full(ROLE, self.files.name, "choose a smaller model, or --device cpu"), torch.no_grad():
            out = self._model(
                pixel_values=pixels,
                input_ids=text,
                token_type_ids=torch.zeros_like(text),
                attention_mask=torch.ones_like(text),
            )
            scores = torch.sigmoid(out.logits[0]).float().cpu().numpy()
            boxes = out.pred_boxes[0].float().cpu().numpy()
        of_name = np.stack([scores[:, span].max(axis=1) for span in spans], axis=1)
        found = []
        for query in np.flatnonzero(of_name.max(axis=1) >= SURE).tolist():
            best = int(np.argmax(of_name[query]))
            x, y, width, height = boxes[query]
            box = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1)
            found.append(Detection(names[best], float(of_name[query, best]), box.astype(np.float32)))
        return found

    def release(self) -> None:
        """See :meth:`~.named.NamedDetector.release`; another use loads it again."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _words(self, names: tuple[str, ...]) -> tuple[list[int], list[list[int]]]:
        """Tokens of 'person. dog.', and the positions among them of each name's tokens."""
        text, ends = "", []
        for name in names:
            begin = len(text)
            text += f"{name}. "
            ends.append((begin, begin + len(name)))
        told = self._tokens.encode(text.strip())
        if len(told.ids) > MOST_TOKENS:
            raise InputError(
                f"{len(names)} names of --remove and --keep are {len(told.ids)} tokens, and {self.files.name} reads "
                f"{MOST_TOKENS} at a time: give fewer or shorter ones"
            )
        inside = [
            [k for k, (first, last) in enumerate(told.offsets) if last > first and begin <= first and last <= end]
            for begin, end in ends
        ]
        if not all(inside):
            unknown = next(name for name, places in zip(names, inside, strict=True) if not places)
            raise CheckpointError(f"{OPTION} {self.files.name}: its tokenizer.json does not know {unknown!r}")
        return list(told.ids), inside

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, h, w) float32: the picture in the size and the range of values of the model's training."""
        height, width = image.shape[:2]
        scale = min(self.side / min(height, width), self.side * LONGER / SHORTER / max(height, width))
        wh = max(1, round(scale * width)), max(1, round(scale * height))
        resized = cv2.resize(image, wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        values = (resized.astype(np.float32) / 255 - IMAGENET[0]) / IMAGENET[1]
        return np.ascontiguousarray(values.transpose(2, 0, 1))[None]


class TrackerAsSegmenter:
    """:class:`~.named.BoxSegmenter` by the first frame of a tracker's memory."""

    def __init__(self, tracker: TransformersTracker) -> None:
        self._tracker = tracker

    @property
    def facts(self) -> dict[str, str]:
        """See :attr:`~.named.BoxSegmenter.facts`."""
        return self._tracker.facts

    def look(self, image: np.ndarray) -> SeenPicture:
        """See :meth:`~.named.BoxSegmenter.look`."""
        return self._tracker.look(image)

    def segment(self, seen: SeenPicture, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`~.named.BoxSegmenter.segment`."""
        return self._tracker.memory().segment(0, seen, box, size)

    def release(self) -> None:
        """See :meth:`~.named.BoxSegmenter.release`."""
        self._tracker.release()


def find_detector(spec: str, log: RunLog) -> ModelFiles:
    """The files of ``--names-model``, and that the library is there to read them.

    Raises:
        Easi3RError: see :func:`~easi3r_ns.network.models.find_model`.
    """
    require_transformers(ROLE, spec)
    return find_model(ROLE, spec, log)


def open_detector(files: ModelFiles, device: torch.device) -> GroundingDino | Sam3:
    """What reads these files, which are of a class in :data:`ROLE`; loaded when it is first used.

    Raises:
        CheckpointError: the tokenizer is damaged.
    """
    if files.architecture == BOXES:
        return GroundingDino(files, device)
    return Sam3(files, _tokenizer(files), ROLE, device)


def _tokenizer(files: ModelFiles) -> Any:
    from tokenizers import Tokenizer

    file = files.folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(
            f"{OPTION} {files.name}: {file} is no tokenizer ({shortened(str(error), 100)}); fetch it anew, or "
            f"{ROLE.without}"
        ) from error

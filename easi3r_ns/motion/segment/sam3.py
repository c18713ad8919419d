"""SAM 3 (Carion et al., 2025, "Segment Anything with Concepts"), masks for words, through the library transformers.

It finds and segments in one: a :class:`~.named.NamedDetector` whose detections bring their masks. Pictures and words
are prepared as its authors do, by our own code: a folder needs config.json, tokenizer.json and the weights only.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...core.errors import InputError
from ...network.models import ModelFiles, Role, load_model, one_line_when_full
from ...storage.fingerprint import files_of, fingerprint
from .named import Detection
from .sam2 import prepared

IMAGES, VIDEO = "Sam3Model", "Sam3VideoModel"
"""The class that is used, and the one of the published weights, of which it reads its own part."""
SURE = 0.5
"""Least score of a thing: that of the library's demonstrations. Not measured here."""
MOST_TOKENS = 32
"""Of a name, with those of its beginning and end: the length of text that the model was trained with."""
_HALF = np.full(3, 0.5, np.float32)


class Sam3:
    """:class:`~.named.NamedDetector` of the classes above; loaded when it is first used.

    Args:
        tokens: the tokenizer of the files.
    """

    def __init__(self, files: ModelFiles, tokens: Any, role: Role, device: torch.device) -> None:
        self.files, self._tokens, self._role, self._device = files, tokens, role, device
        self._content = fingerprint(files_of(files.folder))
        self._model: Any = None
        self.side = _side(json.loads((files.folder / "config.json").read_text(encoding="utf-8")))

    @property
    def facts(self) -> dict[str, str]:
        """See :attr:`~.named.NamedDetector.facts`."""
        return dict(self.files.provenance) | {"content": self._content}

    def detect(self, image: np.ndarray, names: tuple[str, ...]) -> list[Detection]:
        """See :meth:`~.named.NamedDetector.detect`; the picture is seen once, whatever the number of names."""
        words = [self._words(name) for name in names]
        if self._model is None:
            self._model = load_model(self._role, replace(self.files, architecture=IMAGES), self._device)
        pixels = torch.from_numpy(prepared(image, self.side, (_HALF, _HALF))).to(self._device)
        found: list[Detection] = []
        with one_line_when_full(self._role, self.files.name, "--device cpu"), torch.no_grad():
            seen = self._model.get_vision_features(pixel_values=pixels)
            for name, ids in zip(names, words, strict=True):
                text = torch.tensor([ids], device=self._device)
                out = self._model(vision_embeds=seen, input_ids=text, attention_mask=torch.ones_like(text))
                found += _sure(name, out)
        return found

    def release(self) -> None:
        """See :meth:`~.named.NamedDetector.release`; another use loads it again."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _words(self, name: str) -> list[int]:
        """Tokens of a name with those of its beginning and end. Padding would be masked out, so there is none."""
        ids = list(self._tokens.encode(name).ids)
        if len(ids) > MOST_TOKENS:
            raise InputError(
                f"--remove/--keep {name!r} is {len(ids)} tokens, and {self.files.name} reads {MOST_TOKENS}: give a "
                "shorter name"
            )
        return ids


def _sure(name: str, out: Any) -> list[Detection]:
    """The things of an answer for one name whose score is high enough."""
    scores = torch.sigmoid(out.pred_logits[0])
    if out.presence_logits is not None:
        scores = scores * torch.sigmoid(out.presence_logits[0])
    kept = torch.nonzero(scores >= SURE)[:, 0].tolist()
    values = scores.float().cpu().numpy()
    boxes = np.clip(out.pred_boxes[0].float().cpu().numpy(), 0, 1)
    masks = out.pred_masks[0].float().cpu().numpy()
    return [Detection(name, float(values[k]), boxes[k].astype(np.float32), masks[k]) for k in kept]


def _side(config: dict[str, Any]) -> int:
    """Pixels of the square pictures, by ``config.json`` of either class."""
    own = config.get("detector_config") or config
    size = ((own.get("vision_config") or {}).get("backbone_config") or {}).get("image_size", 1008)
    return int(size if isinstance(size, int) else size[0])

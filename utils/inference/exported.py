"""A network that export.py wrote as ONNX, run by onnxruntime in the place of the original."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.data.normalize import FULL_SCALE, Normalize
from utils.errors import CheckpointError, ConfigError
from utils.inference.exporting import onnx_session


class ExportedNetwork(nn.Module):
    """Maps normalized images (N, C, H, W) to logits (N, K, H, W), on the CPU.

    The file takes plain pixels, so normalization is undone here. Pixels that were resized are
    rounded to the file's dtype: at scales other than 1 logits differ a little from the original's.

    Args:
        path: A file that export.py wrote.

    Raises:
        CheckpointError: No ONNX file, one of another program, or one that answers class ids.
        ConfigError: onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = onnx_session(path)
        known = self._session.get_modelmeta().custom_metadata_map
        try:
            self.about: dict[str, Any] = {key: json.loads(text) for key, text in known.items()}
            self._dtype: str = self.about["input_dtype"]
            self._least = int(self.about["minimum_side"])
            mean, std = self.about["mean"], self.about["std"]
            self._normalize = Normalize(mean, std, input_dtype=self._dtype)
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: an ONNX file without the metadata that export.py writes ({error})\n"
                "  fix: score the masks that it predicts, evaluate.py --predictions"
            ) from error
        if self._session.get_outputs()[0].name != "logits":
            raise CheckpointError(
                f"{path}: answers class ids, expected logits\n  fix: export it without --argmax"
            )
        digest = hashlib.sha256(path.read_bytes()).digest()  # stands for its weights
        self.register_buffer("content", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:
        """Run images one by one."""
        plain = (images - self._normalize.shift) / self._normalize.scale
        if self._dtype != "float32":
            plain = plain.round().clamp(0, FULL_SCALE[self._dtype])
        height, width = plain.shape[2:]
        fixed = self._session.get_inputs()[0].shape[2:]
        if isinstance(fixed[0], int):
            if fixed != [height, width]:
                raise ConfigError(
                    f"the network was exported for {fixed[1]} x {fixed[0]} pixels alone, found "
                    f"{width} x {height}\n  fix: export it without --size"
                )
        else:
            short = [max(0, self._least - side) for side in (width, height)]
            plain = F.pad(plain, (0, short[0], 0, short[1]), mode="replicate")
        arrays = plain.cpu().numpy().astype(self._dtype)
        logits = [self._session.run(None, {"images": one[None]})[0] for one in arrays]
        return torch.cat([torch.from_numpy(one) for one in logits])[..., :height, :width].to(images)

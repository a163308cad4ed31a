"""A trained network and what is known about it, from whichever file holds it."""

from pathlib import Path
from typing import Any

from torch import nn

import models
from utils.errors import CheckpointError
from utils.inference.exported import ExportedNetwork
from utils.run.checkpoint import load
from utils.run.checkpoint_schema import fault_in
from utils.run.folder import find_model


def read_model(path: Path) -> tuple[Path, nn.Module, dict[str, Any]]:
    """Read a network to predict with.

    Args:
        path: A checkpoint, a run folder, whose best model is taken, or an ONNX file of export.py.

    Returns:
        The file, the network in eval mode on the CPU, and its checkpoint, of ONNX without weights.

    Raises:
        CheckpointError: There is none, or it is damaged, foreign, or of another version.
        ConfigError: An ONNX file without onnxruntime.
    """
    file = find_model(path)
    if file.suffix.lower() == ".onnx":
        network = ExportedNetwork(file)
        checkpoint = {"state_dict": {}, **network.about}
        if fault := fault_in(checkpoint, file):
            raise CheckpointError(f"{file}: {fault}\n  fix: export it again")
        return file, network.eval(), checkpoint
    checkpoint = load(file)
    return file, models.model_from_checkpoint(checkpoint), checkpoint

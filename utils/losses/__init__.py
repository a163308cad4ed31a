"""Losses and their table `LOSSES`; one kind a file.

A loss sees logits, masks and plain values: no config, no process group, no optimizer may enter.
"""

from utils.losses.lovasz import LovaszSoftmax
from utils.losses.pixel import CrossEntropyLoss2d, FocalLoss
from utils.losses.region import DiceLoss, Tversky
from utils.losses.table import LOSSES, CE_DiceLoss, Sum, build_loss

__all__ = [
    "LOSSES",
    "CE_DiceLoss",
    "CrossEntropyLoss2d",
    "DiceLoss",
    "FocalLoss",
    "LovaszSoftmax",
    "Sum",
    "Tversky",
    "build_loss",
]

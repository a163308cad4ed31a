"""The data sets that a config can name; a new one is a file here and a line in the table."""

from base.base_dataset import BaseDataset
from dataloaders.camvid import CamVid
from dataloaders.shapes import Shapes

DATASETS: dict[str, type[BaseDataset]] = {
    "CamVid": CamVid,
    "Shapes": Shapes,
}

"""The data sets that a config can name; a new one is a file here and a line in the table."""

from base.base_dataset import BaseDataset
from utils.config.registry import Table

DATASETS: Table[type[BaseDataset]] = Table(
    {
        "VOC": "dataloaders.voc",
        "CityScapes": "dataloaders.cityscapes",
        "ADE20K": "dataloaders.ade20k",
        "COCO": "dataloaders.coco",
        "CamVid": "dataloaders.camvid",
        "Folder": "dataloaders.folder",
        "Shapes": "dataloaders.shapes",
    }
)

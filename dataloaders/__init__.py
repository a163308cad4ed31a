"""The data sets that a config can name; a new one is a file here and a line in the table."""

from base.base_dataset import BaseDataset
from dataloaders.ade20k import ADE20K
from dataloaders.camvid import CamVid
from dataloaders.cityscapes import CityScapes
from dataloaders.coco import COCO
from dataloaders.folder import Folder
from dataloaders.shapes import Shapes
from dataloaders.voc import VOC

DATASETS: dict[str, type[BaseDataset]] = {
    "VOC": VOC,
    "CityScapes": CityScapes,
    "ADE20K": ADE20K,
    "COCO": COCO,
    "CamVid": CamVid,
    "Folder": Folder,
    "Shapes": Shapes,
}

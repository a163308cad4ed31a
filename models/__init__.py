"""The networks: one paper a file, and the table that names them."""

from collections.abc import Mapping

from base.base_model import BaseModel
from models.enet import ENet
from models.pspnet import PSPNet
from models.unet import UNet

MODELS: Mapping[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        ENet,
        PSPNet,
        UNet,
    )
}
"""What `arch.type` may say."""

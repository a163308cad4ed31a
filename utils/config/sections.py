"""The sections of a config: components chosen by name, and how to train.

Each field's docstring is its documentation: it goes into config.schema.json and docs/config.md.
"""

import re
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

_OF_A_CLASS = "^(max|min) (IoU|Dice|Precision|Recall)/."


def _score_of_a_class(text: str) -> str:
    if not re.match(_OF_A_CLASS, text):
        raise ValueError(
            "expected a class's IoU, Dice, Precision or Recall, such as 'max IoU/road'"
        )
    return text


_WatchedMean = Literal[
    "off",
    "max Mean_IoU",
    "max Pixel_Accuracy",
    "max val_loss",
    "min Mean_IoU",
    "min Pixel_Accuracy",
    "min val_loss",
]
_WatchedClass = Annotated[
    str,
    AfterValidator(_score_of_a_class),
    WithJsonSchema({"type": "string", "pattern": _OF_A_CLASS}),
]
ClassWeightRule = Literal["median_freq", "sqrt_median_freq", "enet", "inverse"]


class Section(BaseModel):
    """What all parts of the config have in common: strict types, no key that nobody reads."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )


class Component(Section):
    """Something that is chosen by name."""

    type: Annotated[str, MinLen(1)]
    """Name in the table."""

    args: dict[str, JsonValue] = {}
    """Arguments of what `type` names; see its entry in the reference."""


class OptimizerSection(Component):
    """The optimizer and how it treats the groups of parameters."""

    differential_lr: bool = False
    """Train the backbone with a lower learning rate than the rest."""

    backbone_lr_factor: Annotated[float, Gt(0), Le(1)] = 0.1
    """With `differential_lr`: the backbone's learning rate as a share of `lr`."""

    layer_decay: Annotated[float, Gt(0), Le(1)] | None = None
    """Each layer of the encoder learns at this share of the rate of the layer above it, the last
    one of the decoder's (times `backbone_lr_factor` with `differential_lr`); with
    `no_decay_norm_bias`. For vision transformers, 0.65 to 0.9. null: one rate for all layers."""

    no_decay_norm_bias: bool = False
    """No weight decay on biases, the parameters of normalization layers, position tables and
    tokens."""


class TrainerSection(Section):
    """How long to train, what to watch, and what to keep."""

    epochs: Annotated[int, Ge(1), Le(1_000_000)] = 80
    """Epochs of training."""

    save_dir: Annotated[str, MinLen(1)] = "saved/"
    """Folder for the runs: each gets `save_dir/<name>/<date_time>/`."""

    save_period: Annotated[int, Ge(1)] = 10
    """Keep a checkpoint every so many epochs; the last and the best one are kept in any case."""

    save_per_iters: Annotated[int, Ge(1)] | None = None
    """Save within an epoch too, every so many iterations; the newest two stay. null: never."""

    keep: Annotated[int, Ge(1)] | None = None
    """How many of the checkpoints of `save_period` stay. null: all."""

    monitor: _WatchedMean | _WatchedClass = "max Mean_IoU"
    """Which validation result makes a checkpoint the best: "max" or "min" and one of val_loss,
    Pixel_Accuracy, Mean_IoU, or IoU, Dice, Precision, Recall of a class, such as "max IoU/road"; or
    "off" (the default without validation)."""

    early_stop: Annotated[int, Ge(0)] = 0
    """Stop after so many epochs in which the monitored result did not improve. 0: never."""

    tensorboard: bool = True
    """Write TensorBoard event files."""

    log_dir: Annotated[str, MinLen(1)] = "saved/runs"
    """Folder for TensorBoard: each run gets `log_dir/<name>/<date_time>/`."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward pass, in training, validation and inference. "auto": bf16 where
    the hardware computes in it, else fp32. "fp32" keeps torch's defaults: on NVIDIA GPUs
    convolutions multiply in TF32. `evaluate.py` has a flag of its own."""

    channels_last: bool = True
    """Keep images and features with channels innermost, as convolutions prefer it."""

    compile: bool = False
    """Compile the model with torch.compile; pays off on long runs on a GPU."""

    recompute: bool = False
    """Compute the backbone's features a second time in the backward pass instead of keeping them:
    about a third more time for much less memory."""

    accumulate: Annotated[int, Ge(1), Le(65536)] = 1
    """Batches that make up one update; an iteration is one update."""

    clip_grad_norm: Annotated[float, Gt(0)] | None = None
    """Scale gradients down to this norm where they exceed it. null: never."""

    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Also keep a running average of the weights with this decay; validation and the best
    checkpoint use it. null: no average."""

    log_per_iter: Annotated[int, Ge(1)] = 20
    """Log every so many iterations."""

    val: bool = True
    """Validate."""

    val_per_epochs: Annotated[int, Ge(1)] = 5
    """Validate every so many epochs."""

    @model_validator(mode="before")
    @classmethod
    def _no_monitor_without_validation(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("val") is False:
            return {"monitor": "off", **data}
        return data

    @model_validator(mode="after")
    def _agree(self) -> "TrainerSection":
        if not self.val and self.monitor != "off":
            stop = " and trainer.early_stop to 0" if self.early_stop else ""
            raise contradiction(
                "trainer.monitor",
                f'"{self.monitor}" needs validation, and trainer.val is false; '
                f'set trainer.val to true, or trainer.monitor to "off"{stop}',
            )
        if self.early_stop and self.monitor == "off":
            raise contradiction(
                "trainer.early_stop",
                f"{self.early_stop} needs a result to watch, and nothing is "
                'monitored; set trainer.early_stop to 0 or trainer.monitor to "max Mean_IoU"',
            )
        return self


def contradiction(path: str, message: str) -> PydanticCustomError:
    """A fault between two keys, of which `path` is the one to look at first."""
    return PydanticCustomError(
        "contradiction", "{path}: {message}", {"path": path, "message": message}
    )

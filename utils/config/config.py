"""The config: what may stand in it, its defaults, and what contradicts what.

Each field's docstring is its documentation: it goes into config.schema.json and docs/config.md.
Only the command lines see a `Config`; everything else is given plain values.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from utils.config.faults import raise_faults
from utils.config.json_text import read_json5, value_faults
from utils.config.messages import numbered
from utils.config.overrides import apply_overrides
from utils.config.sections import (
    ClassWeightRule,
    Component,
    OptimizerSection,
    Section,
    TrainerSection,
    contradiction,
)
from utils.errors import ConfigError

__all__ = ["Component", "Config", "load_config", "parse_config"]

# No device of Windows, whatever follows the dot: a run's folder must be usable everywhere.
_NAME = re.compile(r"(?!(?i:con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$))\w[\w .,+=@()-]*")
_MAX_NAME_BYTES = 100  # the run folder and TensorBoard add to it; file systems stop at 255


def _file_name(name: str) -> str:
    if (
        not _NAME.fullmatch(name)
        or name.endswith((" ", "."))
        or len(name.encode()) > _MAX_NAME_BYTES
    ):
        raise ValueError(
            f"expected a name for a folder: letters, digits and _ - + = . , @ ( ) or space inside, "
            f"at most {_MAX_NAME_BYTES} bytes, and no device of Windows such as CON or COM1"
        )
    return name


def _bare_type(value: object) -> object:
    """`"loss": "DiceLoss"` is short for `"loss": {"type": "DiceLoss"}`."""
    return {"type": value} if isinstance(value, str) else value


_SGD: dict[str, JsonValue] = {"lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9}


class Config(Section):
    """A whole run."""

    schema_uri: str | None = Field(default=None, alias="$schema")
    """Where the editor finds config.schema.json; the program does not look at it."""

    name: Annotated[
        str,
        AfterValidator(_file_name),
        # For editors, which do not know the validator: not quite as strict.
        WithJsonSchema({"type": "string", "pattern": r"^[^\s./\\][^/\\\n\r]*$", "maxLength": 100}),
    ]
    """Name of the run; its folders are called so."""

    n_gpu: Annotated[int, Ge(0)] = 1
    """GPUs to use; more than there are is cut to what is there, and without any it is the CPU."""

    use_synch_bn: bool = False
    """Batch statistics over all GPUs; no effect in one process or on a CPU."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Everything random follows from it: initial weights, order, augmentation."""

    deterministic: bool = False
    """Only algorithms whose result is the same bits each time; slower on a GPU."""

    parallel: Literal["auto", "DDP", "DataParallel"] = "auto"
    """How several GPUs share the work. "auto" and "DDP": a process each. "DataParallel": one
    process for all of them."""

    init_from: Annotated[str, MinLen(1)] | None = None
    """A file to take the initial weights from: a checkpoint or run folder of this program, or .pth,
    .ckpt or .safetensors of another; what fits by name and shape is taken, the rest reported."""

    arch: Component
    """The model."""

    normalize: Literal["weights"] | None = None
    """Mean and deviation that images are normalized by. null: the data set's. "weights": those of
    the images that the encoder's weights were trained with."""

    train_loader: Component
    """The training data: a data set and how batches are made of it."""

    val_loader: Component | None = None
    """The validation data; needed unless `trainer.val` is false."""

    optimizer: OptimizerSection = OptimizerSection(type="SGD", args=_SGD)
    """The optimizer."""

    loss: Annotated[Component, BeforeValidator(_bare_type)] = Component(type="CrossEntropyLoss2d")
    """The loss: its name, or an object with `type` and `args`."""

    class_weights: ClassWeightRule | Annotated[list[Annotated[float, Ge(0)]], MinLen(1)] | None = (
        None
    )
    """How much a pixel of each class counts in the loss: a list of one number a class, or a formula
    over how often each is labelled: "sqrt_median_freq", "median_freq", "enet" or "inverse"."""

    aux_weight: Annotated[float, Ge(0)] = 0.4
    """Weight of the losses at a model's auxiliary outputs, beside 1 for the main output."""

    scored_classes: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """The classes that the means are over (Mean_IoU, Mean_Dice, Mean_Accuracy), in training and in
    evaluation; all others still count as what a pixel was taken for. null: all."""

    ignore_index: Annotated[int, Ge(-(2**15)), Le(2**15 - 1)] = 255
    """Value of the mask's pixels that do not count; must not be the number of a class."""

    lr_scheduler: Component = Component(type="Poly")
    """How the learning rate changes over the iterations."""

    trainer: TrainerSection = TrainerSection()
    """Length of the training, what is watched, and what is kept."""

    @field_validator("parallel", mode="after")
    @classmethod
    def _batch_statistics(cls, parallel: str, info: ValidationInfo) -> str:
        if parallel == "DataParallel" and info.data.get("use_synch_bn"):
            raise contradiction(
                "use_synch_bn",
                'statistics over all GPUs need a process for each, and parallel is "DataParallel"; '
                'set parallel to "DDP" or use_synch_bn to false',
            )
        return parallel

    @field_validator("trainer", mode="after")
    @classmethod
    def _trainer_agrees(cls, trainer: TrainerSection, info: ValidationInfo) -> TrainerSection:
        if trainer.compile and info.data.get("parallel") == "DataParallel":
            raise contradiction(
                "trainer.compile",
                'a compiled model cannot be copied to other GPUs, and parallel is "DataParallel"; '
                'set parallel to "DDP" or trainer.compile to false',
            )
        args = info.data["train_loader"].args if "train_loader" in info.data else {}
        held_out = next((key for key in ("val_split", "val_fold") if args.get(key)), None)
        if held_out and (info.data.get("val_loader") is not None or not trainer.val):
            other = "val_loader" if trainer.val else "trainer.val"
            raise contradiction(
                other,
                f"train_loader.args.{held_out} holds a share of the training data out for "
                f"validation; delete {held_out}, or {'val_loader' if trainer.val else 'validate'}",
            )
        missing = "val_loader" in info.data and info.data["val_loader"] is None
        if trainer.val and missing and not held_out:
            raise contradiction(
                "val_loader",
                'missing; add "val_loader": {"type": ..., "args": {...}}, or set '
                "trainer.val to false to train without validation",
            )
        return trainer

    def resolved(self) -> dict[str, Any]:
        """Everything, with defaults, as plain JSON types; `parse_config` takes it back."""
        plain = self.model_dump(mode="json", by_alias=True)
        if self.schema_uri is None:
            del plain["$schema"]
        return plain


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config file, without touching anything else.

    Args:
        path: A JSON5 file.
        overrides: `key=value` each, as given to `--set`: a dotted path and a JSON5 value, or text.

    Returns:
        The config; the components that config.schema.json lists have been checked too, others
        are left to `build`.

    Raises:
        ConfigError: With every fault in the file, or the place where it stops being JSON.
    """
    return parse_config(read_json5(Path(path)), source=str(path), overrides=overrides)


def parse_config(
    data: Mapping[str, Any], *, source: str = "config", overrides: Sequence[str] = ()
) -> Config:
    """Check a config that has been read, such as the one in a checkpoint.

    Args:
        data: The config as plain values; it stays as it is.
        source: Where it comes from, for messages.
        overrides: As for `load_config`.

    Raises:
        ConfigError: With every fault.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: expected an object in {{ }}, got {type(data).__name__}")
    source = f"{source} with --set" if overrides else source
    try:
        plain = apply_overrides(data, overrides)
        if faults := list(value_faults(plain, "")):
            raise ConfigError(numbered(faults, source))
        return raise_faults(Config, plain, source)
    except RecursionError:  # not from a file, where the depth has been checked
        raise ConfigError(f"{source}: nested too deep") from None

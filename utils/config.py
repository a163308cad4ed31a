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
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from utils.config_faults import raise_faults
from utils.json_text import read_json5
from utils.overrides import apply_overrides

Monitor = Literal[
    "off",
    "max Mean_IoU",
    "max Pixel_Accuracy",
    "max val_loss",
    "min Mean_IoU",
    "min Pixel_Accuracy",
    "min val_loss",
]

_NAME = re.compile(r"\w[\w .,+=@()-]*")
_MAX_NAME_BYTES = 100  # the run folder and TensorBoard add to it; file systems stop at 255


def _file_name(name: str) -> str:
    if (
        not _NAME.fullmatch(name)
        or name.endswith((" ", "."))
        or len(name.encode()) > _MAX_NAME_BYTES
    ):
        raise ValueError(
            f"expected a name for a folder: letters, digits and _ - + = . , @ ( ) or space inside, "
            f"at most {_MAX_NAME_BYTES} bytes"
        )
    return name


def _bare_type(value: object) -> object:
    """`"loss": "DiceLoss"` is short for `"loss": {"type": "DiceLoss"}`."""
    return {"type": value} if isinstance(value, str) else value


class _Section(BaseModel):
    """What all parts of the config have in common: strict types, no key that nobody reads."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )


class Component(_Section):
    """Something that is chosen by name."""

    type: Annotated[str, MinLen(1)]
    """Name in the table."""

    args: dict[str, JsonValue] = {}
    """Arguments of what `type` names; see its entry in the reference."""


class OptimizerSection(Component):
    """The optimizer and how it treats the groups of parameters."""

    differential_lr: bool = False
    """Train the backbone with a tenth of the learning rate; no effect without a backbone."""


class TrainerSection(_Section):
    """How long to train, what to watch, and what to keep."""

    epochs: Annotated[int, Ge(1)] = 80
    """Epochs of training."""

    save_dir: Annotated[str, MinLen(1)] = "saved/"
    """Folder for the runs: each gets `save_dir/<name>/<date_time>/`."""

    save_period: Annotated[int, Ge(1)] = 10
    """Keep a checkpoint every so many epochs; the last and the best one are kept in any case."""

    save_per_iters: Annotated[int, Ge(1)] | None = None
    """Save within an epoch too, every so many iterations; the newest two stay. null: never."""

    keep: Annotated[int, Ge(1)] | None = None
    """How many of the checkpoints of `save_period` stay. null: all."""

    monitor: Monitor = "max Mean_IoU"
    """Which validation result makes a checkpoint the best: "max" or "min" and one of val_loss,
    Pixel_Accuracy, Mean_IoU; or "off" (the default without validation)."""

    early_stop: Annotated[int, Ge(0)] = 0
    """Stop after so many epochs in which the monitored result did not improve. 0: never."""

    tensorboard: bool = True
    """Write TensorBoard event files."""

    log_dir: Annotated[str, MinLen(1)] = "saved/runs"
    """Folder for TensorBoard: each run gets `log_dir/<name>/<date_time>/`."""

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
            raise _contradiction(
                "trainer.monitor",
                f'"{self.monitor}" needs validation, and trainer.val is false; '
                'set trainer.val to true or trainer.monitor to "off"',
            )
        if self.early_stop and self.monitor == "off":
            raise _contradiction(
                "trainer.early_stop",
                f"{self.early_stop} needs a result to watch, and nothing is "
                'monitored; set trainer.early_stop to 0 or trainer.monitor to "max Mean_IoU"',
            )
        return self


_SGD: dict[str, JsonValue] = {"lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9}


class Config(_Section):
    """A whole run."""

    schema_uri: str | None = Field(default=None, alias="$schema")
    """Where the editor finds config.schema.json; the program does not look at it."""

    name: Annotated[
        str,
        AfterValidator(_file_name),
        # For editors, which do not know the validator: not quite as strict.
        WithJsonSchema({"type": "string", "pattern": r"^[^\s./\\][^/\\]*$", "maxLength": 100}),
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

    arch: Component
    """The model."""

    train_loader: Component
    """The training data: a data set and how batches are made of it."""

    val_loader: Component | None = None
    """The validation data; needed unless `trainer.val` is false."""

    optimizer: OptimizerSection = OptimizerSection(type="SGD", args=_SGD)
    """The optimizer."""

    loss: Annotated[Component, BeforeValidator(_bare_type)] = Component(type="CrossEntropyLoss2d")
    """The loss: its name, or an object with `type` and `args`."""

    aux_weight: Annotated[float, Ge(0)] = 0.4
    """Weight of the losses at a model's auxiliary outputs, beside 1 for the main output."""

    ignore_index: Annotated[int, Ge(-(2**15)), Le(2**15 - 1)] = 255
    """Value of the mask's pixels that do not count; must not be the number of a class."""

    lr_scheduler: Component = Component(type="Poly")
    """How the learning rate changes over the iterations."""

    trainer: TrainerSection = TrainerSection()
    """Length of the training, what is watched, and what is kept."""

    @field_validator("trainer", mode="after")
    @classmethod
    def _validation_data(cls, trainer: TrainerSection, info: Any) -> TrainerSection:
        if trainer.val and "val_loader" in info.data and info.data["val_loader"] is None:
            raise _contradiction(
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
    plain = apply_overrides(data, overrides)
    return raise_faults(Config, plain, f"{source} with --set" if overrides else source)


def _contradiction(path: str, message: str) -> PydanticCustomError:
    """A fault between two keys, of which `path` is the one to look at first."""
    return PydanticCustomError(
        "contradiction", "{path}: {message}", {"path": path, "message": message}
    )

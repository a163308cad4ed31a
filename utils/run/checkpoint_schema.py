"""What a checkpoint holds, as one schema: who reads one can take the fields as they stand."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from utils.config.messages import join, wrong_value
from utils.files.tensor_files import fault_of, leaves

Count = Annotated[int, Ge(0)]
Sums = Annotated[list[float], Len(2, 2)]
Pair = Annotated[list[Count], Len(2, 2)]
Color = Annotated[list[Annotated[int, Ge(0), Le(255)]], Len(3, 3)]
Tensors = dict[str, Tensor]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


def _part(base: type[BaseModel] = _Part, **fields: Any) -> type[BaseModel]:
    """An object with these entries; others may stand beside them."""
    return create_model("Part", __base__=base, **fields)


# Of the config what inference needs; those who need the rest check it as a config.
_CONFIG = _part(
    arch=_part(type=str, args=(dict[str, Any], {})),
    train_loader=_part(args=_part(crop_size=(Annotated[int, Ge(1)] | None, None))),
    trainer=_part(precision=(Literal["auto", "fp32", "bf16", "fp16"], "auto")),
)
_AVERAGE = _part(state_dict=Tensors)
_CHECKPOINT = _part(
    arch=str,
    config=_CONFIG,
    state_dict=Tensors,
    classes=Annotated[list[str], MinLen(1)],
    palette=list[Color],
    mean=Annotated[list[float], MinLen(1)],
    std=list[Annotated[float, Gt(0)]],
    ignore_index=Annotated[int, Ge(-(2**15)), Le(2**15 - 1)],
    input_dtype=(Literal["uint8", "uint16", "float32"], "uint8"),
    epoch=(Count, 0),
    step=(Count, 0),
    ema=(_AVERAGE | None, None),
    plugins=(list[str], []),
)
_GROUP: Any = _part(params=list[Count])
_TRAINING = _part(
    _CHECKPOINT,
    **dict.fromkeys(("epoch", "iteration", "step", "log_bytes"), Count),
    optimizer=_part(state=dict[int, Tensors], param_groups=list[_GROUP]),
    scaler=dict[str, Annotated[float, Ge(0)]],
    ema=_part(_AVERAGE, updates=Count) | None,
    monitor_best=float | None,
    monitor_epochs=Pair,
    running=_part(iterations=Pair, losses=Tensor, counts=Tensor, by_process=(list[Sums], [])),
)
_AS_MANY = {"palette": "classes", "std": "mean"}


def fault_in(content: Mapping[str, Any], path: Path) -> str | None:
    """Say what is wrong with a checkpoint, with the path of the field; None: nothing is."""
    for where, value in leaves(content, path):
        if isinstance(value, Tensor) and (fault := fault_of(value)):
            return f"{join('', *where)}: {fault}"
        plain = isinstance(value, Tensor | str | int | float | None)
        if not plain or (isinstance(value, float) and not math.isfinite(value)):
            return f"{join('', *where)}: expected a finite plain value, got {str(value)[:60]}"
    try:
        (_TRAINING if content.get("kind") == "training" else _CHECKPOINT).model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if missing := [join("", *one["loc"]) for one in errors if one["type"] == "missing"]:
            return f"incomplete: {', '.join(missing)} missing"
        return wrong_value("", content, errors[:1])
    for key, other in _AS_MANY.items():
        if len(content[key]) != len(content[other]):
            return f"{key}: {len(content[key])} entries for {len(content[other])} of {other}"
    return None

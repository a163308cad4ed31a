"""Draw the README's images: schedules, the colors of the data sets, and what models see.

python tools/figures.py           writes schedules.png, palettes.png, aerial.png to docs/images
python tools/figures.py --output DIR
python tools/figures.py --model best_model.pth   shapes.png too: what a default run has learned
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from utils.drawing.chart import Curve, draw, new_figure  # noqa: E402
from utils.errors import guard  # noqa: E402
from utils.files.outputs import prepare_folder  # noqa: E402

if TYPE_CHECKING:
    from utils.optim.lr_scheduler import Schedule

EXAMPLE = ROOT / "examples" / "aerial"
_STEPS = 1000
_PAPER, _INK, _EDGE = (255, 255, 255), (27, 36, 48), (150, 150, 150)
_SHOWN = 7  # images in a row
_NAMES = 90  # pixels for the names of the rows
_ROW, _COLUMN, _COLUMNS, _NAMED = 24, 170, 5, 40  # pixels, columns, classes that get a name


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = ROOT / "docs" / "images"
    parser.add_argument("-o", "--output", type=Path, default=folder, help=f"(default: {folder})")
    parser.add_argument(
        "-m", "--model", type=Path, help="a checkpoint or folder of the default run"
    )
    options = parser.parse_args(arguments)
    output = options.output
    prepare_folder(output)
    images = {"schedules": schedules(), "palettes": palettes(), "aerial": aerial()}
    if options.model is not None:
        images["shapes"] = shapes(options.model)
    for name, image in images.items():
        path = output / f"{name}.png"
        image.save(path, optimize=True)
        print(path)
    return 0


def schedules() -> Image.Image:
    """Two charts, one above the other: the rates of all schedules, and OneCycle's momentum."""
    figure = new_figure(860, 620)
    above, below = figure.subplots(2, height_ratios=(3, 2))
    draw(
        above,
        [Curve(name, *rate_curve(name)) for name in _table()],
        title="Learning rate",
        x_label="share of the run",
        y_label="factor of the base rate",
    )
    draw(
        below,
        [Curve("OneCycle", *momentum_curve())],
        title="Momentum",
        x_label="share of the run",
        y_label="momentum, or the first beta",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def rate_curve(name: str) -> tuple[list[float], list[float]]:
    """(shares of the run, rates) of a schedule of the table, by applying it to an optimizer."""
    schedule = _schedule(name)
    rates = []
    for step in range(_STEPS):
        schedule.apply(step)
        rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
    return _shares(), rates


def momentum_curve() -> tuple[list[float], list[float]]:
    """(shares of the run, momentums) of OneCycle."""
    schedule = _schedule("OneCycle")
    momentums = []
    for step in range(_STEPS):
        schedule.apply(step)
        momentums.append(float(schedule.optimizer.param_groups[0]["momentum"]))
    return _shares(), momentums


def _table() -> Mapping:
    from utils.optim.lr_scheduler import SCHEDULERS

    return SCHEDULERS


def _schedule(name: str) -> "Schedule":
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    return _table()[name](optimizer, total_steps=_STEPS)


def _shares() -> list[float]:
    return [step / _STEPS for step in range(_STEPS)]


def palettes() -> Image.Image:
    """The colors of every data set that has its own, with the names of its classes."""
    from dataloaders import DATASETS

    blocks = []
    for name, kind in DATASETS.items():
        classes, palette = getattr(kind, "classes", None), getattr(kind, "palette", None)
        if isinstance(classes, tuple) and isinstance(palette, tuple):
            blocks.append(_palette(name, classes, palette))
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks)), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def shapes(model: Path) -> Image.Image:
    """Held-out images of the embedded data set, their labels, and a model's predictions."""
    import numpy as np
    import torch

    from dataloaders.shapes import Shapes
    from models.stored import read_model
    from utils.data.normalize import Normalize
    from utils.drawing.palette import to_colors

    _, network, _ = read_model(model)
    data = Shapes(split="val", length=_SHOWN)
    normalize = Normalize(data.mean, data.std)
    columns = []
    for index in range(_SHOWN):
        image, mask = data.load(index)
        with torch.inference_mode():
            logits = network(normalize(torch.from_numpy(image).permute(2, 0, 1)[None]))
        masks = (mask, logits.argmax(1)[0].numpy())
        colours = [to_colors(m, data.palette, ignore_index=data.ignore_index) for m in masks]
        framed = [
            np.pad(part, ((3, 3), (3, 3), (0, 0)), constant_values=255)
            for part in (image, *colours)
        ]
        columns.append(np.concatenate(framed))
    rows = Image.fromarray(np.concatenate(columns, axis=1))
    sheet = Image.new("RGB", (_NAMES + rows.width, rows.height), _PAPER)
    sheet.paste(rows, (_NAMES, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, name in enumerate(("image", "label", "prediction")):
        pen.text((8, round((row + 0.45) * rows.height / 3)), name, fill=_INK, font=font)
    return sheet


def aerial() -> Image.Image:
    """The photograph of examples/aerial, its label, and what the model beside it sees in it."""
    import numpy as np
    import torch

    from inference import load
    from utils.drawing.grid import comparison_sheet

    model = load(EXAMPLE, mode="whole")
    image, colors = (
        np.array(Image.open(next((EXAMPLE / part).iterdir())).convert("RGB"))
        for part in ("images", "masks")
    )
    mask = np.full(image.shape[:2], 255, np.uint8)
    for number, color in enumerate(model.palette):
        mask[(colors == color).all(axis=2)] = number
    as_tensor = torch.from_numpy
    sample = as_tensor(image).permute(2, 0, 1), as_tensor(mask), as_tensor(model(image))
    found = SimpleNamespace(classes=model.classes, palette=model.palette, ignore_index=255)
    return Image.fromarray(comparison_sheet([sample], found))


def _palette(
    name: str, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """Swatches with names; of a data set with many classes the swatches alone, in one band."""
    named = len(classes) <= _NAMED
    rows = -(-len(classes) // _COLUMNS) if named else 2
    width = _COLUMN * _COLUMNS
    block = Image.new("RGB", (width, 40 + rows * _ROW + 8), _PAPER)
    draw = ImageDraw.Draw(block)
    text = f"{name}: {len(classes)} classes"
    draw.text((12, 12), text, fill=_INK, font=ImageFont.load_default(17))
    if not named:
        step = (width - 24) / len(classes)
        for place, color in enumerate(palette):
            left = 12 + place * step
            draw.rectangle((left, 44, left + step, 40 + 2 * _ROW - 6), fill=color)
        return block
    for place, (label, color) in enumerate(zip(classes, palette, strict=True)):
        left, top = 12 + place % _COLUMNS * _COLUMN, 40 + place // _COLUMNS * _ROW
        draw.rectangle((left, top, left + 16, top + 16), fill=color, outline=_EDGE)
        draw.text((left + 23, top + 1), label, fill=_INK, font=ImageFont.load_default(13))
    return block


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

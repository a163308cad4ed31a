"""A contact sheet of what the network will see: samples, masks over them, and class shares.

    python tools/preview.py --config config.json                    # writes preview.png
    python tools/preview.py --config config.json -n 24 -o sheet.png --epoch 3
    python tools/preview.py --config mine.json --each               # each augmentation alone

Each sample stands twice, alone and under its mask; void has its own color. Below: how much of the
labelled area of these samples each class takes. With --each a row shows what one setting of the
config does to the first image, in four epochs and without the other settings.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import ConfigError, guard
from utils.files.written import Written

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset
    from base.samples import Sample

PAPER = (255, 255, 255)
_INK = (20, 20, 20)
_GAP, _LINE = 4, 14  # pixels
_LARGEST = 384  # pixels of a tile's long side
_COLUMNS = 4
_BAR = 240  # pixels of the longest bar
_OPACITY = 0.55


def main(arguments: Sequence[str]) -> int:
    """Run the command; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", default="config.json", help="the JSON file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change keys of the config",
    )  # fmt: skip
    parser.add_argument("-n", "--number", type=int, default=12, help="samples shown")
    parser.add_argument("-o", "--output", default="preview.png", help="the image to write")
    parser.add_argument("--epoch", type=int, default=0, help="whose augmentation is shown")
    parser.add_argument("--overwrite", action="store_true", help="replace other programs' files")
    parser.add_argument("--each", action="store_true", help="each augmentation alone, one a row")
    args = parser.parse_args(arguments)
    output = Path(args.output)
    written = Written(output.parent)
    written.refuse_others([output], overwrite=args.overwrite)
    for flag, found, least in (("number", args.number, 1), ("epoch", args.epoch, 0)):
        if found < least:
            raise ConfigError(f"--{flag}: found {found}, expected at least {least}")
    from utils.config.config import load_config

    config = load_config(args.config, args.set)
    from dataloaders.building import build_dataset
    from utils.seeding import epoch_order

    dataset = build_dataset(
        "train_loader",
        (config.train_loader.type, config.train_loader.args),
        ignore_index=config.ignore_index,
        seed=config.seed,
    )
    order = epoch_order(len(dataset), seed=config.seed, epoch=args.epoch)[: args.number]
    if args.each:
        rows = one_by_one(dataset)
        epochs = range(args.epoch, args.epoch + _COLUMNS)
        samples = [row[(epoch, int(order[0]))] for row in rows.values() for epoch in epochs]
        sheet = draw_sheet(samples, dataset, [name for name in rows for _ in epochs])
    else:
        samples = [dataset[(args.epoch, int(index))] for index in order]
        sheet = draw_sheet(samples, dataset)
    kind = Image.registered_extensions().get(output.suffix.lower(), "PNG")
    encoded = BytesIO()  # into a file on a full disk Pillow would lose the end in silence
    sheet.save(encoded, format=kind)
    with written.opened([output]):
        written.write(output, lambda path: path.write_bytes(encoded.getbuffer()))
    print(f"{output}: {len(samples)} samples of {len(dataset)}, {sheet.width}x{sheet.height}")
    return 0


def one_by_one(dataset: "BaseDataset") -> "dict[str, BaseDataset]":
    """Return the data set with each of its augmentations alone, by what the config says of it.

    The first one only crops.

    Raises:
        ConfigError: It has none.
    """
    from base.augmentation import AT_REST

    on = {name: getattr(dataset, name) for name in AT_REST}
    on = {name: value for name, value in on.items() if value != AT_REST[name]}
    if dataset.base_size is None:
        on.pop("scale", None)  # there is nothing that it would scale
    if not dataset.augments or not on:
        raise ConfigError(
            "--each: the training images are not augmented\n"
            '  fix: "augment": true in train_loader.args, beside what shall be shown'
        )
    rows = {"nothing": copy.copy(dataset)}
    vars(rows["nothing"]).update(AT_REST)
    for name, value in on.items():
        rows[f"{name}: {value}"] = row = copy.copy(rows["nothing"])
        setattr(row, name, value)
    return rows


def draw_sheet(
    samples: "Sequence[Sample]", dataset: "BaseDataset", names: Sequence[str] | None = None
) -> Image.Image:
    """Draw samples, overlays and the histogram; a sample keeps its pixels up to a size."""
    from utils.evaluation.summary import short_names

    tiles = [_tile(sample, dataset) for sample in samples]
    names = names or short_names([dataset.name(sample.index) for sample in samples])
    width, height = (max(tile.size[axis] for tile in tiles) for axis in (0, 1))
    captions = [_lines(name, width) for name in names]
    step = (width + _GAP, height + _LINE * max(map(len, captions)) + _GAP)
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    grid = (columns * step[0] + _GAP, rows * step[1] + _GAP)
    bars = _histogram(samples, dataset)
    sheet = Image.new("RGB", (max(grid[0], bars.width), grid[1] + bars.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = _GAP + place % columns * step[0], _GAP + place // columns * step[1]
        sheet.paste(tile, (left, top))
        for line, text in enumerate(caption):
            pen.text((left, top + height + line * _LINE), text, fill=_INK)
    sheet.paste(bars, (0, grid[1]))
    return sheet


def _lines(name: str, width: int) -> list[str]:
    """Break a name into lines that fit: any part of it may be what tells it from the others."""
    font, lines = ImageFont.load_default(), [""]
    for letter in name:
        if lines[-1] and font.getlength(lines[-1] + letter) > width:
            lines.append("")
        lines[-1] += letter
    return lines


def _tile(sample: "Sample", dataset: "BaseDataset") -> Image.Image:
    """Return a sample beside the same under its mask."""
    from utils.drawing.overlay import shown
    from utils.drawing.palette import to_colors

    pixels = shown(sample.image).astype(np.uint8)
    colours = to_colors(sample.mask, dataset.palette, ignore_index=dataset.ignore_index)
    covered = (1 - _OPACITY) * pixels + _OPACITY * colours
    both = Image.fromarray(np.concatenate([pixels, covered.astype(np.uint8)], axis=1))
    both.thumbnail((2 * _LARGEST, _LARGEST))
    return both


def _histogram(samples: "Sequence[Sample]", dataset: "BaseDataset") -> Image.Image:
    from utils.drawing.text import in_percent

    counts = np.sum([dataset.label_counts(sample.mask) for sample in samples], axis=0)
    shares = counts / max(int(counts.sum()), 1)
    shown = [int(label) for label in np.argsort(-shares)][:40]
    texts = [f"{dataset.classes[label]} {in_percent(shares[label], 1)}%" for label in shown]
    longest = max(ImageFont.load_default().getlength(text) for text in texts)
    size = (_BAR + round(longest) + 6 * _GAP, len(shown) * _LINE + 2 * _GAP)
    image = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(image)
    for row, (label, text) in enumerate(zip(shown, texts, strict=True)):
        top = _GAP + row * _LINE
        length = max(2, round(_BAR * shares[label] / max(shares.max(), 1e-9)))
        pen.rectangle((_GAP, top, _GAP + length, top + _LINE - 4), fill=dataset.palette[label])
        pen.text((_GAP + length + 6, top - 1), text, fill=_INK)
    return image


if __name__ == "__main__":
    raise SystemExit(guard(main, sys.argv[1:]))

"""Turn masks of inference.py into what a benchmark's server takes.

    python tools/submission.py --dataset CityScapes --masks outputs --output results
    python tools/submission.py --dataset ADE20K --masks outputs --output results

CityScapes: label ids of the official table instead of the 19 training ids, all in one folder.
ADE20K: 1..150 instead of 0..149; 0 is "other" there. Both are gray PNG under the masks' names.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python tools/...` puts tools/ on the path, not its parent

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from utils.errors import ConfigError, DataError, guard  # noqa: E402
from utils.files.images import opened  # noqa: E402
from utils.files.written import Written  # noqa: E402

_UNKNOWN = 255


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=("CityScapes", "ADE20K"), required=True)
    parser.add_argument("--masks", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace other programs' files")
    options = parser.parse_args(arguments)
    masks = sorted(options.masks.rglob("[!.]*.png"))
    if not masks:
        raise DataError(
            f"--masks {options.masks}: no PNG files there\n  fix: run inference.py first"
        )
    targets = _targets(masks, options.output)
    written = Written(options.output)
    table = encoding(_label_ids(options.dataset))
    written.refuse_others(targets.values(), overwrite=options.overwrite)
    with written.opened(targets.values()):
        for mask, target in targets.items():
            encoded = encode(mask, table)
            written.write(target, lambda path, encoded=encoded: encoded.save(path, format="PNG"))
    print(f"{len(targets)} masks for {options.dataset} in {options.output}")
    return 0


def _targets(masks: Sequence[Path], output: Path) -> dict[Path, Path]:
    """One folder for all, as the servers want it."""
    if output.resolve() in {mask.resolve().parent for mask in masks}:
        raise ConfigError(f"--output {output}: holds the masks themselves\n  fix: another folder")
    names: dict[str, Path] = {}
    for mask in masks:
        other = names.setdefault(mask.name, mask)
        if other != mask:
            raise DataError(f"{mask} and {other}: two masks of one name, the server takes one")
    return {mask: output / name for name, mask in names.items()}


def _label_ids(dataset: str) -> Mapping[int, int]:
    """Class id of the mask -> value that the server expects."""
    if dataset == "ADE20K":
        return {one: one + 1 for one in range(150)}
    from dataloaders.cityscapes import TRAIN_IDS

    return {train_id: label_id for label_id, train_id in TRAIN_IDS.items()}


def encoding(label_ids: Mapping[int, int]) -> np.ndarray:
    """The lookup table uint8 (256,) of class ids; 255 where there is no such class."""
    table = np.full(256, _UNKNOWN, np.uint8)
    for class_id, label_id in label_ids.items():
        table[class_id] = label_id
    return table


def encode(path: Path, table: np.ndarray) -> Image.Image:
    """A mask's image in the server's values, mode L.

    Raises:
        DataError: Not a mask of class ids, or a class that the data set does not have.
    """
    with opened(path) as image:
        mode, mask = image.mode, np.asarray(image)
    if mode not in ("P", "L"):
        raise DataError(f"{path}: found mode {mode}, expected a palette PNG of inference.py")
    encoded = table[mask]
    if (encoded == _UNKNOWN).any():
        strange = np.unique(mask[encoded == _UNKNOWN])[:5].tolist()
        known = int((table != _UNKNOWN).sum())
        raise DataError(
            f"{path}: class ids {strange}, expected 0..{known - 1}\n"
            "  fix: masks of a model that was trained on this data set"
        )
    return Image.fromarray(encoded)


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

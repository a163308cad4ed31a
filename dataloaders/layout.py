"""Finding the files of a layout: folders that must exist, partners matched by key."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from base.samples import Pair
from utils.errors import DataError

_NOTHING = {
    ".json": ' ({"shapes": []} where nothing is drawn)',
    ".txt": " (an empty one where nothing is drawn)",
}
_COLOR_LISTS = ("labelmap.txt", "class_dict.csv")
_SHOWN = 20
_EXAMPLES = 5


def require_folder(folder: Path, *, layout: str) -> Path:
    """Return `folder` if it is one.

    Args:
        folder: The path to look at.
        layout: The layout expected, for the message.

    Raises:
        DataError: It is not there; says what is there instead.
    """
    if folder.is_dir():
        return folder
    parent = folder
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    raise DataError(
        f"{folder}: no such folder\n"
        f"  expected: {layout}\n"
        f"  found: {parent.absolute()} holds {contents(parent)}\n"
        '  fix: set "data_dir" in the loader\'s args to the folder described above'
    )


def first_folder(candidates: Sequence[Path], *, layout: str) -> Path:
    """Return the first candidate that is a folder; the first one is named when none is."""
    for folder in candidates:
        if folder.is_dir():
            return folder
    return require_folder(candidates[0], layout=layout)


def files_by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the files of a folder that end in `suffix`, by their name without it."""
    return {path.name.removesuffix(suffix): path for path in folder.glob(f"[!.]*{suffix}")}


def read_lines(path: Path, *, layout: str) -> list[str]:
    """Return the lines of a list file that are not blank.

    Raises:
        DataError: The file is missing or is not text.
    """
    if not path.is_file():
        require_folder(path.parent, layout=layout)
        raise DataError(
            f"{path}: no such list\n  expected: {layout}\n"
            f"  found: {path.parent} holds {contents(path.parent)}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark first
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def contents(folder: Path) -> str:
    """Return a folder's first entries for a message."""
    try:
        return shortened(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    except OSError as error:  # may not be listed; on Windows also a drive that is not there
        return f"what cannot be listed ({error.strerror})"


def shortened(names: Sequence[str]) -> str:
    """Return up to ten names on one line, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def listed(paths: Iterable[Path | str]) -> str:
    """Return up to 20 paths, one a line, and how many more there are."""
    shown = [str(path) for path in paths]
    lines = [f"    {path}" for path in shown[:_SHOWN]]
    if len(shown) > _SHOWN:
        lines.append(f"    and {len(shown) - _SHOWN} more")
    return "\n".join(lines)


def require_some(pairs: Iterable[Pair], *, where: Path, layout: str) -> tuple[Pair, ...]:
    """Return the pairs, or raise DataError when a split is empty."""
    pairs = tuple(pairs)
    if not pairs:
        held = contents(where) if where.is_dir() else "an empty list"
        raise DataError(
            f"{where}: no image found, the split is empty\n  expected: {layout}\n  found: {held}"
        )
    return pairs


def match(
    images: Mapping[str, Path], masks: Mapping[str, Path], *, where: Path
) -> tuple[list[Pair], tuple[str, ...]]:
    """Pair images and masks by key, in the order of the keys' code points; never by position.

    Returns:
        The pairs, and what to say of masks without an image, which are left out.

    Raises:
        DataError: An image without a mask; names up to 20 and counts them.
    """
    missing = [path for key, path in sorted(images.items()) if key not in masks]
    others = sorted(path.name for key, path in masks.items() if key not in images)
    if missing:
        found = f"  found: masks without an image: {shortened(others)}\n" if others else ""
        endings = {path.suffix.lower() for path in masks.values()}
        nothing = "".join(_NOTHING[ending] for ending in sorted(endings & _NOTHING.keys()))
        objects = ""
        if len(others) >= 2 * len(images):
            objects = "where each object has a mask, draw those of an image into one; else "
        raise DataError(
            f"{where}: no mask for {len(missing)} of {len(images)} images:\n{listed(missing)}\n"
            f"{found}"
            "  expected: a mask with the same name for every image\n"
            f"  fix: {objects}add the masks{nothing}, or remove these images from the split"
        )
    pairs = [Pair(images[key], masks[key]) for key in sorted(images)]
    left = f"{len(others)} masks have no image: {shortened(others)} (in {where})"
    return pairs, (left,) if others else ()


def named_colors(folder: Path, classes: Sequence[str], *, void: int) -> dict[int, int]:
    """Read which class has which color, as `color_names` finds it.

    Returns:
        Train ids of color codes 0xRRGGBB, void for names that are no class (in any case); empty
        without the file, or when it names no class.
    """
    ids = {name.casefold(): train_id for train_id, name in enumerate(classes)}
    found = {color: ids.get(name.casefold(), void) for color, name in color_names(folder).items()}
    return found if set(found.values()) - {void} else {}


def color_names(folder: Path) -> dict[int, str]:
    """Read a list of names and colors in the folder of masks or just above.

    It is CVAT's labelmap.txt, `road:128,64,128::`, or a class_dict.csv, `road,128,64,128`.

    Returns:
        Names of color codes 0xRRGGBB; empty without the file.
    """
    places = [place / name for place in (folder, *folder.parents[:2]) for name in _COLOR_LISTS]
    text = next((path.read_text("utf-8", "replace") for path in places if path.is_file()), "")
    return {
        int(red) << 16 | int(green) << 8 | int(blue): name.strip()
        for name, red, green, blue in re.findall(r"(?m)^([^#:,]+)[:,] *(\d+), *(\d+), *(\d+)", text)
    }


def with_examples(text: str, examples: Sequence[str]) -> str:
    """Return a text with its first examples below it, and how many more there are."""
    shown = [f"\n      {example}" for example in examples[:_EXAMPLES]]
    if len(examples) > _EXAMPLES:
        shown.append(f"\n      and {len(examples) - _EXAMPLES} more")
    return text + ":" + "".join(shown)

"""What a run and its data are called; read without torch."""

import re
from collections.abc import Mapping
from pathlib import Path

IMAGES = "validation.png"  # of the last validation


def date_of(folder: Path) -> str | None:
    """The minute at which a run began, as its folder's name tells it: "2026-01-31 12:00"."""
    found = re.match(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-\d\d", folder.absolute().name)
    return found and f"{found[1]} {found[2]}:{found[3]}"


def data_name(kind: str, args: Mapping[str, object]) -> str:
    """What a report calls a data set: its type, but `Folder` by the name of its folder."""
    name = Path(str(args.get("data_dir", ""))).name
    return name if kind == "Folder" and name else kind

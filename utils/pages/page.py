"""What all pages share: base.html, parts.html and page.css, filled; no scripts, no requests."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.drawing.text import percent

_FOLDER = Path(__file__).parent


def fill(template: Path, **values: object) -> str:
    """Fill a template that extends base.html.

    Args:
        template: The file.
        values: What it names; base.html wants `title`, `about`, `sections` and `cards`.

    Returns:
        HTML; the same for the same values, to the byte.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "words": words, "base64": _base64}
    style = Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))  # noqa: S704  ours
    return environment.get_template(template.name).render(style=style, **values)


def words(name: str) -> str:
    """A key as words: `Mean_IoU` is "Mean IoU"."""
    return name.replace("_", " ")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

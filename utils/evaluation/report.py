"""report.html: one file that opens offline and shows what a model gets right and wrong."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from utils.drawing.palette import VOID_COLOUR, Colour
from utils.evaluation.report_images import KINDS, RIGHT, TYPES, WRONG, heat_map, strength_of
from utils.evaluation.scoring import Evaluation, Shown
from utils.evaluation.summary import VOID, overall, percent, short_names

_STYLE = Path(__file__).with_name("report.css")
_TABLE_CLASSES = 32  # a confusion matrix of more is a picture: its numbers could not be read
_STRONG = 0.6  # cells of a stronger colour have white figures
# The browser is told to fetch nothing: the page is the same offline and in ten years.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SECTIONS = (
    ("classes", "Classes"),
    ("confusion", "Confusion matrix"),
    ("mistakes", "Commonest mistakes"),
    ("places", "Boundaries and interiors"),
    ("images", "Images"),
    ("worst", "Worst images"),
    ("best", "Best images"),
)


def render(evaluation: Evaluation, summary: Mapping[str, Any], *, palette: Sequence[Colour]) -> str:
    """The whole page.

    Args:
        evaluation: The sums and the pictures.
        summary: What `utils.evaluation.summary.summarise` made of it.
        palette: A colour for each class.

    Returns:
        HTML without scripts; the same for the same evaluation, to the byte.
    """
    about = summary["about"]
    title = f"{about['arch']} on {about['data']}"
    if about.get("split"):
        title += f" {about['split']}"
    links = "".join(f'<a href="#{name}">{text}</a>' for name, text in _SECTIONS)
    legend = _legend(summary, palette)
    body = "\n".join(
        [
            f"<header><h1>{escape(title)}</h1>{_about(summary)}<nav>{links}</nav></header>",
            _cards(summary),
            _classes(summary, palette),
            _confusion(evaluation.counts, summary),
            _mistakes(summary),
            _places(summary),
            _images(summary),
            _gallery("worst", "The lowest Mean IoU of a single image first.", evaluation, legend),
            _gallery("best", "The highest Mean IoU of a single image first.", evaluation, legend),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>"
        f"</head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _section(name: str, note: str, content: str) -> str:
    return (
        f'<section id="{name}"><h2>{dict(_SECTIONS)[name]}</h2>'
        f'<p class="note">{note}</p>\n{content}</section>'
    )


def _about(summary: Mapping[str, Any]) -> str:
    facts = {"images": f"{summary['images']:,}", **summary["about"]}
    shown = (
        f"<span>{escape(name.replace('_', ' '))} <b>{escape(_fact(value))}</b></span>"
        for name, value in facts.items()
        if value not in (None, False) and name not in ("arch", "data", "split")
    )
    return f'<p class="about">{"".join(shown)}</p>'


def _fact(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)


def _cards(summary: Mapping[str, Any]) -> str:
    cards = "".join(
        f'<div class="card"><div class="value">{percent(value)}</div>'
        f'<div class="label">{key.replace("_", " ")}</div></div>'
        for key, value in overall(summary).items()
    )
    return f'<div class="cards">{cards}</div>'


def _swatch(colour: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:rgb({",".join(map(str, colour))})"></span>'


def _bar(share: float | None, kind: str = "") -> str:
    width = f"{100 * (share or 0):.2f}%"
    return f'<div class="track"><div class="fill {kind}" style="width:{width}"></div></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table of ready cells; the first `left` columns flush left."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = (' class="left"' if place < left else "" for place in range(len(cells)))
        return "".join(
            f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True)
        )

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{line("th", head)}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _classes(summary: Mapping[str, Any], palette: Sequence[Colour]) -> str:
    columns = ["IoU", "Dice", "Precision", "Recall"]
    if "Mean_Boundary_IoU" in summary:
        columns.append("Boundary_IoU")
    rows = []
    for row, colour in zip(summary["classes"], palette, strict=False):
        name = f"{_swatch(colour)}{escape(row['name'])}"
        absent = row["IoU"] is None
        bar = '<span class="soft">absent</span>' if absent else _bar(row["IoU"])
        scores = (percent(row[key]) for key in (*columns, "label_share"))
        rows.append([name, f'<div class="bar">{bar}</div>', *scores])
    head = ["Class", "", *(name.replace("_", " ") for name in columns), "Share of labels"]
    return _section("classes", escape(summary["rules"]), _table(head, rows, left=2))


def _confusion(counts: np.ndarray, summary: Mapping[str, Any]) -> str:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    note = (
        "Each row is a label and adds up to 100 %: how its pixels were predicted. Right answers "
        "are blue, wrong ones red; the pixels themselves are in confusion.csv."
    )
    if len(counts) > _TABLE_CLASSES:
        picture = _image(heat_map(shares), "image/png", "confusion matrix", "pixels")
        note += " Rows and columns are in the order of the table above."
        return _section("confusion", note, picture)
    names = [row["name"] for row in summary["classes"]]
    strengths = strength_of(shares)
    columns = [*names, VOID][: counts.shape[1]]
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in columns)
    rows = []
    for label, name in enumerate(names):
        cells = (
            _cell(share, strength, f"{name} → {other}", right=name == other)
            for share, strength, other in zip(shares[label], strengths[label], columns, strict=True)
        )
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    table = (
        f'<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )
    return _section("confusion", note, table)


def _cell(share: float, strength: float, pair: str, *, right: bool) -> str:
    """A cell of the matrix; its colour lets the page through, be that light or dark."""
    white = ' class="dark"' if strength > _STRONG else ""
    red, green, blue = RIGHT if right else WRONG
    colour = f"rgb({red} {green} {blue} / {100 * strength:.0f}%)"
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    title = escape(f"{pair}: {percent(share)}")
    return f'<td{white} style="background:{colour}" title="{title}">{text}</td>'


def _mistakes(summary: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(one["label"]),
            escape(one["prediction"]),
            f"{one['pixels']:,}",
            percent(one["label_share"]),
            percent(one["error_share"]),
        ]
        for one in summary["top_confusions"]
    ]
    head = ["Label", "Predicted as", "Pixels", "Of this label", "Of all errors"]
    note = "The pairs of classes that account for most wrong pixels."
    return _section("mistakes", note, _table(head, rows, left=2))


def _places(summary: Mapping[str, Any]) -> str:
    names = {"boundary": "Near a boundary of the labels", "interior": "Inside regions"}
    rows = [
        [
            names[zone],
            f'<div class="bar">{_bar(one["error_share"], "bad")}</div>',
            percent(one["error_share"]),
            percent(one["error_rate"]),
            f"{one['errors']:,}",
            f"{one['pixels']:,}",
        ]
        for zone, one in summary["errors"].items()
    ]
    head = ["Where", "", "Of all errors", "Error rate there", "Wrong pixels", "Pixels"]
    note = (
        "Near means within half a per cent of the image's diagonal. Errors that sit there are a "
        "matter of resolution; those inside regions are a matter of recognition."
    )
    return _section("places", note, _table(head, rows, left=2))


def _images(summary: Mapping[str, Any]) -> str:
    images = summary["per_image"]
    scores = [one["Mean_IoU"] for one in images if one["Mean_IoU"] is not None]
    rows = [
        [str(rank), escape(one["image"]), percent(one["Mean_IoU"]), percent(one["Pixel_Accuracy"])]
        for rank, one in enumerate(images, start=1)
    ]
    listed = _table(["#", "Image", "Mean IoU", "Pixel accuracy"], rows, left=2)
    note = (
        "Mean IoU of each image by itself, in ascending order; the dashed line is their mean, "
        "which is not the Mean IoU of the data set. Images without a labelled pixel come last."
    )
    details = (
        f"<details><summary>All {len(images):,} images</summary>"
        f'<div class="list">{listed}</div></details>'
    )
    return _section("images", note, f"{_chart(scores)}{details}")


def _chart(scores: Sequence[float]) -> str:
    """Bars in ascending order, from 0 to 100 %."""
    if not scores:
        return '<p class="soft">No image has a labelled pixel.</p>'
    left, right, top, bottom = 44, 1180, 12, 212
    width, height = (right - left) / len(scores), bottom - top
    gap = min(2.0, width / 4)
    axes = "".join(
        f'<line class="axis" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick} %</text>'
        for tick in (0, 25, 50, 75, 100)
        for y in [bottom - height * tick / 100]
    )
    bars = "".join(
        f"M{left + place * width:.2f} {bottom}v{-height * score:.2f}h{width - gap:.2f}V{bottom}z"
        for place, score in enumerate(scores)
    )
    mean = bottom - height * sum(scores) / len(scores)
    line = f'<line class="mean" x1="{left}" x2="{right}" y1="{mean:.1f}" y2="{mean:.1f}"/>'
    return (
        f'<svg viewBox="0 0 1192 224" role="img" aria-label="Mean IoU of each image">'
        f'{axes}<path class="bars" d="{bars}"/>{line}</svg>'
    )


def _legend(summary: Mapping[str, Any], palette: Sequence[Colour]) -> str:
    entries = [
        (row["name"], colour)
        for row, colour in zip(summary["classes"], palette, strict=False)
        if row["IoU"] is not None
    ]
    entries += [("void", VOID_COLOUR), ("wrong (in errors)", WRONG)]
    items = "".join(f"<span>{_swatch(colour)}{escape(name)}</span>" for name, colour in entries)
    return f'<div class="legend">{items}</div>'


def _gallery(kind: str, note: str, evaluation: Evaluation, legend: str) -> str:
    gallery: list[Shown] = getattr(evaluation, kind)
    names = short_names([image.name for image in evaluation.images])
    name_of = {image.index: name for image, name in zip(evaluation.images, names, strict=True)}
    figures = "\n".join(_figure(shown, name_of[shown.score.index]) for shown in gallery)
    return _section(kind, note, f"{legend}\n{figures}")


def _figure(shown: Shown, name: str) -> str:
    tiles = "".join(
        f"<div>{_image(data, media, f'{kind} of {name}')}{kind}</div>"
        for data, media, kind in zip(shown.pictures, TYPES, KINDS, strict=True)
    )
    score = f"Mean IoU {percent(shown.score.mean_iou)}"
    accuracy = f"pixel accuracy {percent(shown.score.pixel_accuracy)}"
    return (
        f"<figure><figcaption><b>{escape(name)}</b> &nbsp;{score}, {accuracy}</figcaption>"
        f'<div class="four">{tiles}</div></figure>'
    )


def _image(data: bytes, media: str, text: str, style: str = "") -> str:
    source = base64.b64encode(data).decode("ascii")
    mark = f' class="{style}"' if style else ""
    return f'<img{mark} src="data:{media};base64,{source}" alt="{escape(text)}">'

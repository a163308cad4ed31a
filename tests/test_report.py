"""report.html: its order, its words, and that it needs nothing from outside."""

import io
import json
import re
import shutil
import socket
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_cases import CLASSES, PALETTE, Images, answer
from PIL import Image

from utils.drawing.palette import VOID_COLOR
from utils.evaluation.report import render
from utils.evaluation.report_images import WRONG, draw, heat_colors
from utils.evaluation.scoring import Evaluator
from utils.evaluation.summary import confusion_csv, percent, short_names, summarize, table

ABOUT = {"arch": "UNet", "data": "<Images>", "split": "val", "mode": "whole", "scales": [0.5, 1]}


def evaluated(length=30, *, boundary_ratio=0.02):
    draws = partial(draw, palette=PALETTE, ignore_index=255)
    data = Images(length)
    evaluation = Evaluator(data, answer, draw=draws, boundary_ratio=boundary_ratio).run()
    return evaluation, summarize(evaluation, classes=CLASSES, about=ABOUT)


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.addresses, self.captions, self.open, self.crossed = [], [], [], []
        self.images, self.scripts = 0, 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "img", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("line", "path"):
            return
        self.crossed += [] if self.open and self.open.pop() == tag else [tag]

    def handle_data(self, data):
        if self.open[-2:] == ["figcaption", "b"]:
            self.captions.append(data)


def test_the_page_is_self_contained_and_well_formed():
    evaluation, summary = evaluated()
    page = render(evaluation, summary, palette=PALETTE)
    tags = Tags(re.sub(r"<path[^>]*/>", "", page))
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert tags.scripts == 0
    assert tags.images == 4 * 40
    assert tags.crossed == []
    assert tags.open == []
    assert "url(" not in page
    assert "@import" not in page
    assert "<Images>" not in page
    assert "&lt;Images&gt; val" in page


def test_rows_and_galleries_stand_in_exact_ascending_order():
    evaluation, summary = evaluated()
    page = render(evaluation, summary, palette=PALETTE)
    scores = [one["Mean_IoU"] for one in summary["per_image"]]
    assert scores[-1] is None
    assert scores[:-1] == sorted(scores[:-1])
    names = [one["image"] for one in summary["per_image"]]
    listed = re.findall(r"<td class=\"left\">(?:\d+)</td><td class=\"left\">([^<]*)</td>", page)
    assert listed == names
    scored = names[:-1]
    shown = short_names([image.name for image in evaluation.images])
    by_index = {image.index: name for image, name in zip(evaluation.images, shown, strict=True)}
    worst = [by_index[one.score.index] for one in evaluation.worst]
    assert Tags(re.sub(r"<path[^>]*/>", "", page)).captions == worst + scored[:-21:-1]


def test_the_summary_says_what_the_scores_mean():
    evaluation, summary = evaluated()
    assert summary["images"] == 30
    assert summary["absent_classes"] == ["tram"]
    assert summary["Class_IoU"]["tram"] is None
    assert summary["classes"][3]["Boundary_IoU"] is None
    assert summary["labelled_pixels"] == int(evaluation.counts.sum())
    assert "absent" in summary["rules"]
    shares = [zone["error_share"] for zone in summary["errors"].values()]
    assert sum(shares) == pytest.approx(1)
    json.dumps(summary, allow_nan=False)
    text = table(summary)
    assert re.search(r"^tram +- +- +- +- +- +0\.00 %$", text, re.MULTILINE)
    assert re.search(rf"^Mean_IoU +{percent(summary['Mean_IoU'])}$", text, re.MULTILINE)
    without = table(evaluated(4, boundary_ratio=None)[1])
    assert "Boundary_IoU" not in without


def test_the_csv_has_a_row_a_label():
    counts = np.array([[5, 1], [0, 7]])
    text = confusion_csv(counts, ["sky, blue", "road"])
    assert text == 'label \\ prediction,"sky, blue",road\n"sky, blue",5,1\nroad,0,7\n'


def test_names_lose_the_folder_that_all_share():
    assert short_names(["/a/b/x.png", "/a/b/y.png"]) == ["x.png", "y.png"]
    assert short_names(["/a/b/x.png", "/a/c/y.png"]) == ["b/x.png", "c/y.png"]
    assert short_names(["shapes-0", "shapes-1"]) == ["shapes-0", "shapes-1"]
    assert short_names(["/a/x.png", "b/y.png"]) == ["/a/x.png", "b/y.png"]


def test_many_classes_are_an_image_and_nothing_labelled_is_said():
    class Many(Images):
        num_classes = 40

    names, colours = [f"class {n}" for n in range(40)], [(n, n, n) for n in range(40)]
    draws = partial(draw, palette=colours, ignore_index=255)
    evaluation = Evaluator(Many(3), answer, draw=draws).run()
    page = render(evaluation, summarize(evaluation, classes=names, about=ABOUT), palette=colours)
    assert 'class="pixels"' in page
    assert 'class="heat"' not in page


def test_right_cells_are_blue_wrong_ones_red_and_empty_ones_white():
    colours = heat_colors(np.array([[1.0, 0.0], [0.4, 0.6]])).astype(int)
    assert colours[0, 1].tolist() == [255, 255, 255]
    assert colours[0, 0, 2] > colours[0, 0, 0]
    assert colours[1, 0, 0] > colours[1, 0, 2]


def test_cells_are_shares_of_their_label():
    evaluation, summary = evaluated(4)
    counts = np.array([[6, 2, 0, 0], [5, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    page = render(evaluation._replace(counts=counts), summary, palette=PALETTE)
    names = [row["name"] for row in summary["classes"]]
    assert f'title="{names[0]} → {names[1]}: 25.00 %">25<' in page
    assert f'title="{names[1]} → {names[0]}: 100.00 %">100<' in page


def test_the_dashed_line_is_the_mean_of_the_bars():
    evaluation, summary = evaluated()
    page = render(evaluation, summary, palette=PALETTE)
    (height,) = map(float, re.findall(r'class="mean" d="M0 ([\d.]+)h', page))
    bars = [float(bar) for bar in re.findall(r"v-([\d.]+)h", page)]
    scores = [one["Mean_IoU"] for one in summary["per_image"] if one["Mean_IoU"] is not None]
    assert bars == pytest.approx([1000 * score for score in scores], abs=0.01)
    assert 1000 - height == pytest.approx(np.mean(bars), abs=0.06)


def test_the_last_image_shows_what_is_wrong_and_what_is_void():
    mask = np.repeat(np.array([[0, 1, 255]], np.uint8), 32, axis=0).repeat(32, axis=1)
    image = np.full((*mask.shape, 3), 100, np.uint8)
    prediction = np.zeros_like(mask)
    *_, errors = draw(image, mask, prediction, palette=PALETTE, ignore_index=255)
    pixels = np.asarray(Image.open(io.BytesIO(errors)).convert("RGB")).astype(int)
    right, wrong, void = pixels[16, 16], pixels[16, 48], pixels[16, 80]
    assert np.ptp(right) <= 2
    assert abs(wrong - WRONG).max() <= 4
    assert abs(void - VOID_COLOR).max() <= 4


def browse(page, tmp_path):
    """Open a page in Chromium behind a proxy of ours: (console messages, requests seen)."""
    requests = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(200).split(b"\r\n")[0].decode())

    threading.Thread(target=listen, daemon=True).start()
    command = [
        shutil.which("chromium") or shutil.which("google-chrome") or "chromium",
        *["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
        *["--disable-background-networking", "--disable-component-update", "--disable-sync"],
        *["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"],
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--proxy-server=127.0.0.1:{server.getsockname()[1]}",
        "--proxy-bypass-list=<-loopback>",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    server.close()
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser itself asks its maker's servers for this and that; a page cannot cause those.
    own = ("google", "gstatic")
    return console, [line for line in requests if not any(name in line for name in own)], done


@pytest.mark.browser
def test_the_report_opens_in_a_browser_without_a_request_or_an_error(tmp_path):
    evaluation, summary = evaluated()
    page = tmp_path / "report.html"
    page.write_text(render(evaluation, summary, palette=PALETTE), encoding="utf-8")
    console, requests, done = browse(page, tmp_path)
    assert console == []
    assert requests == []
    assert "Boundaries and interiors" in done.stdout


@pytest.mark.browser
def test_a_page_that_asks_or_fails_is_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://images.test/a.png"><script>nothing()</script>')
    console, requests, _ = browse(page, tmp_path)
    assert any("nothing is not defined" in line for line in console)
    assert any("images.test" in line for line in requests)

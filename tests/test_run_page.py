"""The page of runs: all of it from their folders' files, one or several, and what is damaged."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from test_report import Tags, browse

from tools import compare
from utils.drawing.chart import Curve
from utils.drawing.svg import bars, line_chart, ticks
from utils.errors import DataError, guard
from utils.pages.run_files import read_run
from utils.pages.runs import render, write_report
from utils.run.names import data_name

CLASSES = ("<field>", "road")
LOG = """\
2026-01-31 12:00:01,5 INFO train_loader: Folder, 80 images, 64 masks looked at
2026-01-31 12:00:01,5 INFO   note: labelled pixels: <field> 70%, road 30%
2026-01-31 12:00:02,5 INFO device      CPU, 4 threads
2026-01-31 12:00:02,5 INFO model       UNet, 0.49 M parameters
2026-01-31 12:00:03,5 INFO TRAIN 1/3  loss 0.5
2026-01-31 12:40:03,5 INFO trained for 2400 s
2026-01-31 12:40:04,5 INFO peak memory 1532 MiB
"""


def write_run(folder, scores, *, seed=0, lr=0.1, log=LOG, name="fields"):
    """A run folder whose validations gave these IoUs of the two classes."""
    folder.mkdir(parents=True)
    config = {
        "name": name,
        "seed": seed,
        "train_loader": {"type": "Folder", "args": {"data_dir": "/data/farm"}},
        "optimizer": {"args": {"lr": lr}},
        "trainer": {"monitor": "max Mean_IoU", "epochs": len(scores)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = []
    for epoch, both in enumerate(scores, start=1):
        mean = {
            "Mean_IoU": float(np.mean([one for one in both if one is not None])),
            "Pixel_Accuracy": 0.5,
        }
        at = {"epoch": epoch, "step": 10 * epoch}
        rows += [
            {"event": "log", **at, **mean, "loss": 1 / epoch, "learning_rates": [lr, lr / 10]},
            {"event": "train", **at, **mean, "loss": 1 / epoch},
            {"event": "val", **at, **mean, "val_loss": 2 / epoch,
             "Class_IoU": dict(zip(CLASSES, both, strict=True))},
        ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.log").write_text(log)
    return folder


def cells(page, section):
    """The rows of a section's first table, as lists of text."""
    part = page.partition(f'<section id="{section}">')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in rows
    ]


@pytest.mark.parametrize(
    ("kind", "args", "name"),
    [
        ("Folder", {"data_dir": "/my/fields/"}, "fields"),
        ("Folder", {"data_dir": "."}, "Folder"),
        ("CamVid", {"data_dir": "data/camvid"}, "CamVid"),
        ("Shapes", {}, "Shapes"),
    ],
)
def test_a_folder_of_ones_own_is_called_by_its_name(kind, args, name):
    assert data_name(kind, args) == name


def test_a_page_is_made_of_a_folders_files_alone(tmp_path):
    folder = write_run(tmp_path / "2026-01-31_12-00-00", [(0.2, 0.4), (0.8, 0.6), (0.5, None)])
    write_report(folder)
    page = (folder / "report.html").read_text()
    tags = Tags(re.sub(r"<path[^>]*/>", "", page))
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert (tags.scripts, tags.crossed, tags.open) == (0, [], [])
    assert "<title>fields on farm, 2026-01-31 12:00</title>" in page
    assert '<div class="value">70.00 %</div><div class="label">best Mean IoU</div>' in page
    assert '<div class="value">2 of 3</div>' in page
    facts = dict(cells(page, "runs"))
    assert facts["device"] == "CPU, 4 threads"
    assert facts["time"] == "40m"
    assert facts["peak memory"] == "1,532 MiB"
    assert cells(page, "classes") == [
        ["", "1", "2 (best)", "3"],
        ["Mean IoU", "30.0", "70.0", "50.0"],
        ["<field>", "20.0", "80.0", "50.0"],
        ["road", "40.0", "60.0", "-"],
    ]
    assert "  note: labelled pixels: &lt;field&gt; 70%, road 30%" in page
    assert "<field>" not in page
    assert page.count('class="line s1"') == 4  # validation thrice, and the second group's rate


def test_many_epochs_are_a_choice_that_has_the_first_the_last_and_the_best(tmp_path):
    scores = [(0.5, 0.5)] * 57
    scores[31] = (0.9, 0.9)
    write_report(write_run(tmp_path / "run", scores))
    head = cells((tmp_path / "run" / "report.html").read_text(), "classes")[0]
    assert {"1", "32 (best)", "57"} <= set(head)
    assert len(head) <= 13


def test_the_times_of_all_processes_are_added_and_the_last_check_is_shown(tmp_path):
    again = LOG.replace("12:", "13:").replace("4 threads", "8 threads").replace("70%", "71%")
    run = read_run(write_run(tmp_path / "run", [(0.2, 0.4)], log=LOG + again))
    assert run.facts()["time"] == "80m"
    assert run.facts()["device"] == "CPU, 8 threads"
    assert run.data() == [
        "train_loader: Folder, 80 images, 64 masks looked at",
        "  note: labelled pixels: <field> 71%, road 30%",
    ]


def test_a_run_that_was_killed_or_never_validated_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run", [(0.2, 0.4)])
    rows = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(rows[:-20])  # cut in the row of the validation
    (folder / "train.log").unlink()
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert '<div class="value">-</div><div class="label">best Mean IoU</div>' in page
    assert page.count('class="line s0 point"') == 4  # one epoch: a point in each chart
    (folder / "metrics.jsonl").write_bytes(b"")
    write_report(folder)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.jsonl", b'{"event": "val"\n{}\n', "metrics.jsonl, line 1: damaged"),
        ("metrics.jsonl", b"[1]\n", "metrics.jsonl, line 1: damaged"),
        ("config.json", b"{}", "config.json: damaged"),
        ("config.json", None, "no run folder: expected config.json and metrics.jsonl"),
    ],
)
def test_what_is_no_run_folder_or_damaged_is_said(tmp_path, capsys, file, content, said):
    folder = write_run(tmp_path / "parent" / "run", [(0.2, 0.4)])
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    output = tmp_path / "out.html"
    assert guard(compare.main, [str(folder), "--output", str(output)]) == DataError.exit_code
    assert said in capsys.readouterr().err
    assert not output.exists()
    if content is None:  # the folder above it is taken for the run
        shutil.copy(write_run(tmp_path / "b" / "run", [(0.2, 0.4)]) / "config.json", folder)
        assert guard(compare.main, [str(folder.parent)]) == DataError.exit_code
        assert f"a run folder in it: {folder}" in capsys.readouterr().err


def test_runs_are_compared_with_the_spread_of_those_that_repeat_each_other(tmp_path, capsys):
    ious = [(0.70, 0.50), (0.74, 0.60), (0.60, 0.58)]
    folders = [
        write_run(tmp_path / f"2026-01-31_12-0{seed}-00", [(0.1, 0.1), both], seed=seed)
        for seed, both in enumerate(ious)
    ]
    folders.append(write_run(tmp_path / "other", [(0.9, 0.9)], lr=0.5))
    output = tmp_path / "out" / "page.html"
    assert compare.main([*map(str, folders), "-o", str(output)]) == 0
    page = output.read_text()
    assert "fields 2026-01-31 12:01: best Mean_IoU 67.00 % (epoch 2)" in capsys.readouterr().out
    _, group, mean, field, road = cells(page, "spread")
    assert group[0].startswith("3 runs: fields 2026-01-31 12:00, ")
    for row, values in zip(
        (mean, field, road), (np.mean(ious, 1), *np.transpose(ious)), strict=True
    ):
        expected = (np.mean(values), np.std(values, ddof=1), min(values), max(values))
        assert row[1:] == [f"{100 * number:.2f} %" for number in expected]
    assert cells(page, "differences")[1:] == [
        ["seed", "0", "1", "2", "0"],
        ["optimizer.args.lr", "0.1", "0.1", "0.1", "0.5"],
        ["trainer.epochs", "2", "2", "2", "1"],
    ]
    assert page.count('class="line s3') == 8  # the fourth run, in every chart


def test_runs_are_told_apart_by_name_else_date_else_number(tmp_path):
    def runs(*places):
        return [read_run(write_run(tmp_path / place, [], name=name)) for place, name in places]

    one, two = "2026-01-31_12-00-00", "2026-01-31_12-05-00"
    assert compare.labels(runs((f"1/{one}", "a"), (f"1/{two}", "b"))) == ["a", "b"]
    dated = ["a 2026-01-31 12:00", "a 2026-01-31 12:05"]
    assert compare.labels(runs((f"2/{one}", "a"), (f"2/{two}", "a"))) == dated
    assert compare.labels(runs(("3/x", "a"), ("3/y", "a"))) == ["a (1)", "a (2)"]


def test_ticks_are_round_and_reach_the_top():
    for high in (0.07, 0.2, 0.97, 1, 3.4, 748, 1e5, 123456):
        found = ticks(high)
        assert found[0] == 0
        assert found[-1] == pytest.approx(max(high, found[-1]))
        assert 3 <= len(found) <= 7
        assert np.ptp(np.diff(found)) == pytest.approx(0, abs=1e-9 * high)
        assert len(f"{found[1]:g}") <= 6


def test_a_point_stands_where_its_numbers_say():
    chart = line_chart("Loss", [Curve("a", [0, 50, 100], [0.0, 1.0, 2.0]), Curve("b", [], [])])
    assert chart.lines == [("a", "M0.0 1000.0L500.0 500.0L1000.0 0.0h0")]
    assert chart.rows[0] == ("0", 100.0)
    assert chart.rows[-1] == ("2", 0.0)
    assert chart.columns[-1] == ("100", 100.0)
    assert line_chart("Loss", [Curve("b", [], [])]) is None
    long = line_chart("Loss", [Curve("a", range(100_001), [1.0] * 100_001)])
    assert long.lines[0][1].count("L") <= 501
    assert long.lines[0][1].endswith("L1000.0 0.0h0")
    assert bars([0.5, 1.0]) == "M0.00 1000v-500.00h498.00V1000zM500.00 1000v-1000.00h498.00V1000z"


@pytest.mark.browser
def test_the_pages_open_in_a_browser_without_a_request_or_an_error(tmp_path):
    runs = [
        read_run(write_run(tmp_path / name, [(0.2, 0.4), (0.8, 0.6)], name=name)) for name in "ab"
    ]
    for text in (render(runs[0]), compare.render(runs)):
        page = tmp_path / "page.html"
        page.write_text(text)
        console, requests, done = browse(page, tmp_path)
        assert (console, requests) == ([], [])
        assert "Validation images" in done.stdout

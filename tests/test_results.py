"""tools/results.py: the table of runs, from files whose numbers are known."""

import json

import pytest

from tools import results


def write_run(folder, *, seed, scores, name="Fields"):
    """A run folder of 10 updates of 4 batches of 8 images, validated once for each score."""
    folder.mkdir()
    config = {
        "name": name,
        "seed": seed,
        "arch": {"type": "UperNet", "args": {"backbone": "resnet18"}},
        "train_loader": {"type": "Shapes", "args": {"batch_size": 8}},
        "trainer": {"monitor": "max Mean_IoU", "accumulate": 4},
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"event": "val", "epoch": epoch, "step": 5 * epoch, "Mean_IoU": score,
         "Class_IoU": {"road": score / 2, "cat": None}}
        for epoch, score in enumerate(scores, start=1)
    ]  # fmt: skip
    lines = ("trained for 50 s", "trained for 45 s", "peak memory 900 MiB", "peak memory 1200 MiB")
    log = "".join(f"2026-01-01 10:00:00 INFO {line}\n" for line in lines)
    (folder / "train.log").write_text(log)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "a", seed=0, scores=[0.5, 0.4]),
        write_run(tmp_path / "b", seed=1, scores=[0.6, 0.7]),
        write_run(tmp_path / "c", seed=0, scores=[0.25, 0.2], name="Alone"),
    ]


def test_runs_that_differ_in_their_seed_share_a_row(runs, capsys):
    # "name" is no difference either: a third run of the same network.
    assert results.main(runs) == 0
    head, rule, row = capsys.readouterr().out.splitlines()
    columns = "run | network | images seen | Mean_IoU, best | at the end | runs | time | memory"
    assert head == f"| {columns} |"
    assert rule == "|---|---|---|---|---|---|---|---|"
    # (50 + 70 + 25) / 3 and (40 + 70 + 20) / 3; 10 updates x 4 x 8 images
    assert row == (
        "| Fields | UperNet, resnet18 | 320 | 48.3 (25.0 to 70.0) | 43.3 (20.0 to 70.0) | 3 "
        "| 95s | 1,200 MiB |"
    )


def test_a_run_that_is_named_twice_is_one_run(runs, capsys):
    assert results.main([runs[0], f"{runs[0]}/", runs[1]]) == 0
    assert "| 55.0 (50.0 to 60.0) |" not in capsys.readouterr().out.splitlines()[2]
    assert results.main([runs[0], runs[0]]) == 0
    assert "| 50.0 | 40.0 | 1 |" in capsys.readouterr().out


def test_classes_are_those_of_the_best_epoch(runs, capsys):
    assert results.main(["--classes", runs[0]]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| class | Fields |", "|---|---|", "| road | 25.0 |", "| cat | - |"
    ]  # fmt: skip


def test_a_run_that_has_not_written_yet_has_seen_nothing(runs, tmp_path, capsys):
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert results.main(runs[:1]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| Fields | UperNet, resnet18 | 0 | - | - | 1 |")

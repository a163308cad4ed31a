import pytest
from training import plain_config, trainer_of

from utils.drawing.text import in_percent
from utils.evaluation.summary import percent
from utils.run.progress import one_line


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0"),
        (0.1234, "12.3"),
        (1, "100.0"),
        (0.0005, "0.1"),
        (0.0004, "0.04"),
        (1e-7, "1e-05"),
    ],
)
def test_only_nothing_looks_like_nothing(share, text):
    assert in_percent(share, 1) == text
    assert float(text) == pytest.approx(100 * share, rel=1, abs=0)
    assert (float(percent(share)[:-2]) > 0) == (share > 0)


def test_the_scores_of_many_classes_fit_a_screen(tmp_path, caplog):
    caplog.set_level("INFO", logger="segmentation")
    scores = trainer_of(plain_config(tmp_path)).validate(1)["Class_IoU"]
    (said,) = [text for text in caplog.messages if text.startswith("IoU")]
    assert max(map(len, said.splitlines())) <= 100
    shares = {name: percent(value) for name, value in scores.items()}
    assert said.split() == f"IoU {one_line(shares)}".split()

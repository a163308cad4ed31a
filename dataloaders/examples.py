"""Images to try a trained model on."""

from pathlib import Path

from PIL import Image

from base.base_dataset import BaseDataset

_SAMPLES = 8


def example_image(data: BaseDataset, folder: Path) -> Path:
    """An image of a data set; one that draws them leaves a few in the run folder as JPEG."""
    first = Path(data.name(0))
    if first.is_file():
        return first
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    paths = [samples / f"{data.name(index)}.jpg" for index in range(min(_SAMPLES, len(data)))]
    for index, path in enumerate(paths):
        Image.fromarray(data.load(index)[0]).save(path, quality=95)
    return paths[0]

"""What is worth knowing of images whose values or whose turn may not be read as they are meant."""

import contextlib
from collections.abc import Sequence

from base.samples import Pair
from dataloaders.layout import with_examples
from utils.errors import DataError
from utils.files.images import bits, opened, orientation


def image_notes(pairs: Sequence[Pair], dtype: str) -> list[str]:
    """Return notes on 16-bit values read as 8, and on images that EXIF turns in their size.

    Args:
        pairs: Images and masks whose headers Pillow reads; the others are left out.
        dtype: Of the data set.
    """
    turned, deep = [], []
    for image, mask in pairs:
        with contextlib.suppress(DataError), opened(image) as one, opened(mask or image) as other:
            if dtype == "uint8" and bits(one) == 16:
                deep.append(str(image))
            # Nothing shows how the mask of a turned image was drawn.
            if orientation(one) in (2, 3, 4) and orientation(other) == 1:
                turned.append(image)
    notes = []
    if turned:
        notes.append(
            f"EXIF turns {len(turned)} images, such as {turned[0]}, and not their masks: if these "
            "were drawn on the raw pixels, not on the image as displayed, remove the turn: "
            f"exiftool -Orientation= {turned[0].parent}"
        )
    if deep:
        what = "of the images looked at have 16 bits, of which the upper 8 are used: where values "
        what += "stay far below 65535, as those of 12 bits do, convert them to 8 bits"
        notes.append(with_examples(f"{len(deep)} {what}", deep))
    return notes

"""From images to logits at native size: whole, at several scales, or window by window.

Every function takes any callable that maps images (N, C, H, W) to logits (N, K, H, W) for H and W
of at least 32, works on the device that the images are on, and returns float32 logits (N, K, H, W)
at the size it was given. They nest: `multiscale(model, images, predict=partial(sliding,
window=512))` is sliding inside multiscale, and `mirrored(model)` is a model that also looks at the
mirror image.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.inference.tiles import BandSums, Blend, grid

ToLogits = Callable[[Tensor], Tensor]
SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
OVERLAP = 1 / 3
WINDOW = 512
MINIMUM_SIZE = 32


def whole(model: ToLogits, images: Tensor) -> Tensor:
    """Logits of whole images, which are padded by reflection where a side is under 32 pixels.

    Args:
        model: Maps images to logits.
        images: float (N, C, H, W), any H and W.

    Returns:
        float32 (N, K, H, W).
    """
    height, width = images.shape[-2:]
    padded = _reflect(_reflect(images, -2, MINIMUM_SIZE), -1, MINIMUM_SIZE)
    return model(padded)[..., :height, :width].float()


def _reflect(images: Tensor, dimension: int, least: int) -> Tensor:
    """Continue a side to `least` pixels, mirrored as often as it takes (torch pads only once)."""
    size = images.shape[dimension]
    if size >= least:
        return images
    period = max(1, 2 * (size - 1))
    place = torch.arange(least, device=images.device) % period
    return images.index_select(dimension, torch.minimum(place, period - place) % size)


def multiscale(
    model: ToLogits,
    images: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    predict: Callable[[ToLogits, Tensor], Tensor] = whole,
    store: torch.device | None = None,
) -> Tensor:
    """The mean of the logits at several scales, each resized to native size first.

    Images are resized without a low-pass filter, as in training: a network that never saw one does
    worse on filtered images.

    Args:
        model: Maps images to logits.
        images: (N, C, H, W) of any dtype, any H and W.
        scales: Factors on height and width, each above zero.
        predict: What is done at each scale.
        store: Device of the sum; None: where the images are.

    Returns:
        float32 (N, K, H, W).

    Raises:
        ValueError: No scale, or one that is not above zero.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be above zero, found {tuple(scales)}")
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        scaled = tuple(max(1, round(side * scale)) for side in size)
        logits = predict(model, _resize(images.float(), scaled))
        logits = _resize(logits, tuple(size)).to(store or logits.device)
        if total is None:
            total = torch.zeros_like(logits)  # never the model's own tensor, which may be shared
        total += logits
    assert total is not None
    return total.div_(len(scales))


def _resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def sliding(
    model: ToLogits,
    images: Tensor,
    *,
    window: int | tuple[int, int] = WINDOW,
    overlap: float = OVERLAP,
    blend: Blend = "hann",
    batch_size: int = 4,
    store: torch.device | None = None,
) -> Tensor:
    """Logits blended from overlapping windows; the last of a row or column is shifted inside.

    Args:
        model: Maps images to logits.
        images: float (N, C, H, W), any H and W.
        window: Side of a window, or (height, width); at most the image is used.
        overlap: Share of a window that its neighbor covers too, in [0, 1).
        blend: "hann" and "gaussian" fade towards a window's border; "constant" is the plain mean.
        batch_size: Windows a call of the model.
        store: Device of the result; None: where the logits are.

    Returns:
        float32 (N, K, H, W).
    """
    height, width = images.shape[-2:]
    windows = grid((height, width), window=window, overlap=overlap, blend=blend)
    sums = BandSums(windows, store)
    output: Tensor | None = None
    for row, top in enumerate(windows.rows.starts):
        strip = images[:, :, top : top + windows.rows.window]
        for columns, batch in windows.cut(strip, batch_size):
            sums.add(row, columns, whole(model, batch))
        logits = sums.finished(row)
        if output is None:
            output = logits.new_empty((*logits.shape[:2], height, width))
        output[:, :, top : top + logits.shape[2]] = logits
    assert output is not None
    return output


def mirrored(model: ToLogits) -> ToLogits:
    """A model that averages its logits over each image and its mirror image, in one call."""

    def both(images: Tensor) -> Tensor:
        plain, turned = model(torch.cat([images, images.flip(-1)])).float().chunk(2)
        return turned.flip(-1).add_(plain).div_(2)

    return both

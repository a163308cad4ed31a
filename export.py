"""Export a trained model to one file and prove that it answers the same.

    python export.py --model best_model.pth --output model.onnx
    python export.py --model best_model.pth --output model.onnx --argmax --images photos
    python export.py --model best_model.pth --output model.pt2

The file takes plain images (N, C, H, W) of any size from 33 pixels on, with some encoders from 64;
normalization is inside.
.onnx runs in onnxruntime and many others, .pt2 with torch.export.load. Exit code 5: it disagrees.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import VERSION
from utils.errors import ConfigError, guard
from utils.files.outputs import find_images
from utils.files.written import Written

if TYPE_CHECKING:
    import numpy as np

    from utils.inference.export_proof import Comparison
    from utils.inference.exporting import Deployed

_SIZES = ((64, 96), (225, 161), (288, 352))  # an odd one, too: a graph is easily tied to even sides
_IMAGES = 4


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    suffix = options.output.suffix
    if suffix not in (".onnx", ".pt2"):
        raise ConfigError(f"--output {options.output}: found {suffix!r}, expected .onnx or .pt2")
    written = Written(options.output.parent)
    written.refuse_others([options.output], overwrite=options.overwrite)
    from models import model_from_checkpoint
    from tables import add_plugins
    from utils.inference.exporting import Deployed
    from utils.inference.prediction import MINIMUM_SIZE
    from utils.run.checkpoint import load
    from utils.run.folder import find_model

    if options.size and min(options.size) < MINIMUM_SIZE:
        height, width = options.size
        raise ConfigError(
            f"--size: found {height} {width}, expected sides of at least {MINIMUM_SIZE}"
        )

    add_plugins(options.plugin)
    options.model = find_model(options.model)
    checkpoint = load(options.model)
    model = model_from_checkpoint(checkpoint)
    deployed = Deployed(model, checkpoint, argmax=options.argmax).eval()
    with written.opened([options.output]):
        written.write(options.output, lambda path: _export(deployed, checkpoint, path, options))
    before, after = options.model.stat().st_size, options.output.stat().st_size
    print(
        f"{options.output}: {after / 1e6:.1f} MB (checkpoint {before / 1e6:.1f} MB), proven equal"
    )
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    add("-m", "--model", type=Path, required=True, help="checkpoint (best_model.pth) or run folder")
    add("-o", "--output", type=Path, required=True, help="file to write: .onnx or .pt2")
    add("--overwrite", action="store_true", help="replace files that this program did not write")
    add("-i", "--images", type=Path, help="images to prove it on (default: generated ones)")
    add(
        "-e",
        "--extension",
        nargs="+",
        default=["jpg"],
        help="of the images, in any case, several or all (default: jpg)",
    )
    add("--argmax", action="store_true", help="answer with class ids instead of logits")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="for this size alone (default: any)")
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with models, losses or data sets of yours",
    )
    return parser.parse_args(arguments)


def _export(
    deployed: "Deployed", checkpoint: Mapping[str, Any], path: Path, options: argparse.Namespace
) -> None:
    import torch

    from utils.inference.export_proof import compare, require_equal, rounding_of
    from utils.inference.exporting import (
        describe,
        onnx_runner,
        program_runner,
        smallest_side,
        torch_runner,
        trace,
        write_onnx,
    )

    proofs = _proofs(checkpoint, options)
    example = torch.from_numpy(proofs[0] if options.size else proofs[0].repeat(2, axis=0))
    _say("1/3 recording the network")
    program = trace(deployed, example, free_sizes=options.size is None)
    _say(f"2/3 writing {options.output.name}")
    output = "masks" if options.argmax else "logits"
    least = min(options.size) if options.size else smallest_side(program)
    metadata = describe(checkpoint, minimum_side=least)
    if options.output.suffix == ".onnx":
        write_onnx(program, path, metadata=metadata, output=output)
        exported = onnx_runner(path)
    else:
        file = BytesIO()  # a full disk ends torch's own writer, and with it the process
        torch.export.save(program, file, extra_files=metadata)
        path.write_bytes(file.getbuffer())
        exported = program_runner(path)
    reference = torch_runner(deployed)
    _say(f"3/3 comparing the answers to {len(proofs)} batches of images")
    comparisons = []
    rounding = cache(lambda: rounding_of(deployed, proofs))  # slow, and seldom asked
    for images in proofs:
        comparisons.append(compare(reference, exported, images, rounding=rounding))
        _print(comparisons[-1])
    require_equal(comparisons, options.output)


def _say(line: str) -> None:
    """What is being done, while there is no result to print yet."""
    print(line, file=sys.stderr, flush=True)


def _print(one: "Comparison") -> None:
    shape = " x ".join(str(side) for side in one.shape)
    logits = "" if one.difference is None else f", logits within {one.difference:.1e}"
    here, there = (1000 * seconds for seconds in one.seconds)
    print(
        f"  {shape}: {one.agreement:.3%} of pixels the same{logits}; "
        f"{here:.0f} ms here, {there:.0f} ms exported"
    )


def _proofs(checkpoint: Mapping[str, Any], options: argparse.Namespace) -> list["np.ndarray"]:
    """Images (N, C, H, W) to compare on: three sizes, a batch, and the user's own images."""
    import numpy as np

    channels, dtype = len(checkpoint["mean"]), checkpoint.get("input_dtype", "uint8")
    sizes = [tuple(options.size)] if options.size else list(_SIZES)
    made = [_generated(size, channels, dtype) for size in sizes]
    if options.size is None:
        made.append(np.concatenate([made[0], made[0][..., ::-1]]))
    if options.images is not None:
        from utils.data.normalize import mean_color
        from utils.inference.inputs import Expected, read_input

        jobs, _ = find_images(
            [options.images],
            extensions=options.extension,
            recursive=False,
            output=options.output,
        )
        expected = Expected(channels, dtype, mean_color(checkpoint["mean"], dtype))
        read = (read_input(job.image, expected).pixels for job in jobs[:_IMAGES])
        own = [np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]) for pixels in read]
        used = [one for one in own if options.size in (None, list(one.shape[2:]))]
        if len(used) < len(own):
            _say(f"{len(own) - len(used)} of {len(own)} images have another size and prove nothing")
        made += used
    return made


def _generated(size: tuple[int, int], channels: int, dtype: str) -> "np.ndarray":
    """An image of shapes, in as many channels as it takes."""
    import numpy as np

    from dataloaders.shapes import draw

    image, _, _ = draw(size[0], size[1], np.random.default_rng(0))
    full = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    planes = [image[..., index % 3] for index in range(channels)]
    return np.ascontiguousarray((np.stack(planes)[None] * np.float32(full)).astype(dtype))


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))

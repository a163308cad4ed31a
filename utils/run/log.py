"""What a run says: words to the console and train.log, numbers to metrics.jsonl and TensorBoard.

Only the first process has a folder; in the others every call is without effect.
"""

import json
import logging
import math
import os
import re
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.errors import ConfigError, ResourceError, UserError
from utils.files.lock import claim
from utils.files.outputs import write_whole
from utils.files.written import remove_leftovers
from utils.run import folder as run_folder
from utils.run import names
from utils.run.checkpoint import write_durably

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("segmentation")
_early = MemoryHandler(1)  # keeps what is said before there is a train.log


class _Console(logging.Handler):
    """Prints above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _Words(logging.FileHandler):
    """Writes train.log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk stops the run at the next row or checkpoint, which says so."""


def log_to_console(*, first_process: bool = True) -> None:
    """Send messages from INFO on to stderr, all to train.log; other processes only warnings."""
    log.handlers[:] = [_Console(logging.INFO), _early]
    log.setLevel(logging.DEBUG if first_process else logging.WARNING)
    log.propagate = False


class RunLog:
    """The files of one run.

    Args:
        folder: The run folder; None in all processes but the first.
        tensorboard: Where TensorBoard's events go, or None.
        resumed: The checkpoint that the run goes on from. Rows written after it are cut, since
            they will be written again; TensorBoard hides what came after its iteration.

    Raises:
        ConfigError: Another process is training in this folder.
        ResourceError: A file cannot be written; so do all methods.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        tensorboard: Path | None = None,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._rows_path = Path() if folder is None else folder / run_folder.ROWS
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        with _disk_faults(folder, "save_dir"):
            self._rows = _claimed(self._rows_path)
            if resumed is not None:
                self._rows.seek(0)
                rows = self._rows.read()  # through this handle: closing another ends the lock
                run_folder.begin_history(folder, resumed, rows)
                self._cut(rows[: resumed["log_bytes"]], resumed["log_bytes"])
            self._words = _Words(folder / "train.log", encoding="utf-8", errors="backslashreplace")
        self._words.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._words)
        log.debug("process %d on %s writes here", os.getpid(), socket.gethostname())
        _early.setTarget(self._words)
        _early.close()  # which hands them over
        log.removeHandler(_early)
        if tensorboard is not None:
            try:
                self._writer = _open_writer(tensorboard, resumed)
            except ResourceError:
                self.close()
                raise

    def _cut(self, rows: bytes, length: int) -> None:
        """Drop rows after a checkpoint, and what a power loss left of those before it."""
        end = rows.find(b"\0")
        sound = rows.rfind(b"\n", 0, len(rows) if end < 0 else end) + 1
        if sound < length:
            log.warning(
                "%s: rows of this run are missing: %d bytes are sound, the checkpoint counts %d",
                self._rows_path,
                sound,
                length,
            )
        self._rows.truncate(sound)

    def durable_length(self) -> int:
        """The length of metrics.jsonl in bytes, all of them on the disk."""
        if self.folder is None:
            return 0
        with _disk_faults(self._rows_path, "save_dir"):
            os.fsync(self._rows.fileno())
            return self._rows.seek(0, os.SEEK_END)

    def row(self, event: str, epoch: int, step: int, metrics: Mapping[str, object]) -> None:
        """Append one line to metrics.jsonl; numbers that are not finite become null."""
        if self.folder is None:
            return
        row = {"event": event, "epoch": epoch, "step": step, **_finite(metrics)}
        with _disk_faults(self._rows_path, "save_dir"):
            self._rows.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._rows.flush()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write TensorBoard scalars, by tag, at a global iteration; None is left out."""
        if self._writer is not None:
            with self._events(self._writer):
                for tag, value in values.items():
                    if value is not None:
                        self._writer.add_scalar(tag, value, step)

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """Write the validation's images, (H, W, 3) uint8, to the run folder and TensorBoard."""
        if self.folder is not None:
            with _disk_faults(self.folder / names.IMAGES, "save_dir"):
                drawn = Image.fromarray(image)
                write_whole(self.folder / names.IMAGES, partial(drawn.save, format="PNG"))
        if self._writer is not None:
            with self._events(self._writer):
                self._writer.add_image(tag, image, step, dataformats="HWC")

    def text(self, tag: str, text: str) -> None:
        """Write TensorBoard text as it is, indented by four spaces: Markdown's code."""
        if self._writer is not None:
            with self._events(self._writer):
                self._writer.add_text(tag, textwrap.indent(text, "    "))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._writer is not None:
            with self._events(self._writer):
                self._writer.flush()

    @contextmanager
    def _events(self, writer: "SummaryWriter") -> Iterator[None]:
        """Without its events a run is still worth going on with."""
        try:
            yield
        except OSError as error:
            self._writer = None
            log.warning(
                "TensorBoard has no events from here on: cannot write %s: %s",
                writer.log_dir,
                error.strerror or error,
            )

    def nonfinite(self, facts: Mapping[str, object]) -> None:
        """Write down what is known of a loss or gradient that is not finite."""
        if self.folder is not None:
            text = json.dumps(_finite(facts), indent=2, ensure_ascii=False) + "\n"
            write_durably(self.folder / "nonfinite.json", text.encode(errors="backslashreplace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:  # the console gets it from the command
            log.debug("%s", error, exc_info=None if isinstance(error, UserError) else error)
        self.close()

    def close(self) -> None:
        """Close the files, each of them whatever the others do."""
        if self.folder is None:
            return
        log.removeHandler(self._words)
        with suppress(OSError):  # as _Words has it
            self._words.close()
        try:
            with _disk_faults(self.folder, "save_dir"):
                self._rows.close()
        finally:
            if self._writer is not None:
                with self._events(self._writer):
                    self._writer.close()


def open_run(
    folder: Path, config: Mapping[str, object], *, tensorboard: Path | None, resumed: Mapping | None
) -> RunLog:
    """Write down a run's config and open its files.

    Args:
        folder: The run folder.
        config: The whole config, as plain values.
        tensorboard: Where TensorBoard's events go, or None.
        resumed: The checkpoint that the run goes on from, if its rows are in this folder.
    """
    run = RunLog(folder, tensorboard=tensorboard, resumed=resumed)
    # Only now: until RunLog has claimed the folder, a leftover may be another process's file.
    remove_leftovers(folder, run_folder.OURS.fullmatch)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_durably(folder / "config.json", text.encode())
    run.text("config", text)
    return run


def _claimed(path: Path) -> BinaryIO:
    """Open the rows to append; no second process can, until this one ends in whatever way."""
    file = path.open("a+b")
    alone = claim(file, inherited=False)  # workers may outlive a kill for some seconds
    if alone is None:
        log.warning("%s: no locks here: see that no other process trains in it", path.parent)
    if alone is False:
        file.close()
        raise ConfigError(
            f"{path.parent}: another process is training in this run folder{_holder(path.parent)}\n"
            "  wait until it ends, or stop it, and --resume again"
        )
    return file


def _holder(folder: Path) -> str:
    """Who trains there, as its train.log says."""
    with suppress(OSError):
        words = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
        if found := re.findall(r"process (\d+) on (\S+) writes here", words):
            return " (process {} on {})".format(*found[-1])
    return ""


@contextmanager
def _disk_faults(path: Path, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        or_off = ", or trainer.tensorboard to false" if key == "log_dir" else ""
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}\n"
            f"  free some space or set trainer.{key} to another disk{or_off}; what was saved "
            "before is sound: go on with --resume"
        ) from error


def _open_writer(folder: Path, resumed: Mapping[str, Any] | None) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # 1 s to import, for those who want it

    purge = None if resumed is None else resumed["step"] + 1
    with _disk_faults(folder, "log_dir"):
        # TensorBoard knows only names in UTF-8.
        path = str(folder).encode(errors="backslashreplace").decode()
        return SummaryWriter(path, purge_step=purge)


def _finite(metrics: Mapping[str, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            plain[name] = _finite(value)
        elif isinstance(value, float) and not math.isfinite(value):
            plain[name] = None
        else:
            plain[name] = value
    return plain

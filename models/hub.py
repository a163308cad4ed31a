"""A weight file of the Hugging Face hub: asked for in advance, downloaded once, verified."""

import hashlib
import logging
from pathlib import Path

import huggingface_hub as client  # it imports what is used when it is used

from utils.errors import CheckpointError

log = logging.getLogger("segmentation")

FILE = "model.safetensors"
_TIMEOUT_S = 20  # the hub's own client tries for three quarters of a minute before it gives up


def fetch(repository: str, *, only_ask: bool) -> Path | None:
    """Return a repository's weights; of several processes one downloads and the others wait.

    Args:
        repository: "owner/name".
        only_ask: Make sure that the weights can be had; what is not in the cache gives None.

    Raises:
        CheckpointError: The content is not what the hub says; it is deleted.
        Exception: Whatever the client raises when the hub does not answer or breaks off.
    """
    path = client.try_to_load_from_cache(repository, FILE)
    if not isinstance(path, str):
        if not client.constants.HF_HUB_OFFLINE:
            url = client.hf_hub_url(repository, FILE)
            size = client.get_hf_file_metadata(url, timeout=_TIMEOUT_S).size or 0
            if only_ask:
                return None
            log.info(
                "downloading %s (%.1f MB) to %s", url, size / 1e6, client.constants.HF_HUB_CACHE
            )
        path = client.hf_hub_download(repository, FILE)
    if not only_ask:
        _verify(Path(path))
    return Path(path)


def _verify(path: Path) -> None:
    # A link into the store, which names files by their SHA-256; Windows may have a copy instead.
    expected = path.readlink().name if path.is_symlink() else ""
    if len(expected) != hashlib.sha256().digest_size * 2:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.resolve().unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: damaged on the way or on this disk: its SHA-256 is {found[:16]}..., the "
            f"hub's {expected[:16]}...\n  it was deleted: start again to download it anew"
        )

"""Where an encoder's pretrained weights come from: timm's hub, or a file that the user names."""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub as hub  # which imports what is used when it is used
import torch
from torch import Tensor, nn

from utils.errors import CheckpointError, ConfigError, UserError
from utils.files.matching import match
from utils.files.tensor_files import read, weights_in

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

log = logging.getLogger("segmentation")

_HUB_FILE = "model.safetensors"
_SHOWN_KEYS = 3
_TIMEOUT_S = 20  # the hub's own client tries for three quarters of a minute before it gives up


def weights_of(
    name: str, pretrained: str | bool, *, only_ask: bool = False
) -> dict[str, Tensor] | None:
    """Return the weights that ``pretrained`` asks for, under timm's names.

    Args:
        name: A timm name with or without its tag.
        pretrained: True for timm's own weights, a path for a file, False for none.
        only_ask: Make sure that timm's can be had, and download nothing: None stands for them.

    Raises:
        ConfigError: timm has no weights for ``name``, or they cannot be downloaded.
        CheckpointError: The file is missing, damaged, or holds no weights.
    """
    if not isinstance(pretrained, str):
        return _fetch(name, only_ask=only_ask) if pretrained else None
    path = Path(pretrained)
    if not path.is_file():
        raise CheckpointError(
            f"arch.args.pretrained: no such file: {path}\n"
            "  expected: true, false, or the path of a weight file (.pth or .safetensors)"
        )
    return weights_in(read(path), path)


def check_fit(network: nn.Module, weights: dict[str, Tensor], *, name: str, path: str) -> None:
    """Verify that a file holds the encoder it is said to hold.

    The classifier and a stem of other width may differ; timm drops the one and adapts the other.

    Raises:
        CheckpointError: Tensors are missing or have another shape.
    """
    configuration: Any = network.pretrained_cfg
    stems = [f"{stem}.weight" for stem in _names(configuration["first_conv"])]
    ignored = (*_names(configuration["classifier"]), *stems)
    own = network.state_dict()
    # Files from before torch 0.4.1 do not count the batches; nothing depends on the number.
    expected = {
        key: value
        for key, value in own.items()
        if not key.startswith(ignored) and not key.endswith("num_batches_tracked")
    }
    _, misfits, missing, _ = match(weights, expected)
    if faults := missing + misfits:
        raise CheckpointError(
            f"{path}: not the weights of {name}: {len(faults)} of {len(own)} tensors are "
            f"missing or have another shape ({', '.join(faults[:_SHOWN_KEYS])}, ...)\n"
            f"  found in the file: {', '.join(list(weights)[:_SHOWN_KEYS])}, ...\n"
            f"  expected: timm's own file for {name}; name the encoder the file belongs to in "
            "arch.args.backbone"
        )


def _names(value: str | Sequence[str] | None) -> Sequence[str]:
    return [value] if isinstance(value, str) else value or []


def _fetch(name: str, *, only_ask: bool) -> dict[str, Tensor] | None:
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    if configuration is None or not (configuration.hf_hub_id or configuration.url):
        raise ConfigError(
            f'arch.args.pretrained: no pretrained weights exist for {name}; write "pretrained": '
            "false, or the path of a file of your own"
        )
    try:
        if configuration.hf_hub_id:
            path = from_hub(configuration.hf_hub_id, only_ask=only_ask)
        else:
            path = None if only_ask else _from_elsewhere(str(configuration.url))
    except UserError:
        raise
    except Exception as error:  # of whichever client the hub's library uses
        raise _offline(name, error) from error
    return None if path is None else weights_in(read(path), path)


def from_hub(repository: str, *, only_ask: bool) -> Path | None:
    """Return a repository's weights; of several processes one downloads and the others wait.

    Raises:
        CheckpointError: The content is not what the hub says; it is deleted.
        Exception: Whatever the client raises when the hub does not answer or breaks off.
    """
    path = hub.try_to_load_from_cache(repository, _HUB_FILE)
    if not isinstance(path, str):
        if not hub.constants.HF_HUB_OFFLINE:
            url = hub.hf_hub_url(repository, _HUB_FILE)
            size = hub.get_hf_file_metadata(url, timeout=_TIMEOUT_S).size or 0
            if only_ask:
                return None
            log.info("downloading %s (%.1f MB) to %s", url, size / 1e6, hub.constants.HF_HUB_CACHE)
        path = hub.hf_hub_download(repository, _HUB_FILE)
    if not only_ask:
        _verify(Path(path))
    return Path(path)


def _verify(path: Path) -> None:
    # A link into the store, which names files by their SHA-256; Windows may have a copy instead.
    expected = path.readlink().name if path.is_symlink() else ""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if len(expected) == len(found) and found != expected:
        path.resolve().unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: damaged on the way or on this disk: its SHA-256 is {found[:16]}..., the "
            f"hub's {expected[:16]}...\n  it was deleted: start again to download it anew"
        )


def _from_elsewhere(url: str) -> Path:
    """Fetch one of the few that the hub does not have; their names end in part of the checksum."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        torch.hub.download_url_to_file(url, str(path), digest and digest[1])
    return path


def source_of(name: str) -> tuple[str, str]:
    """Return where timm's weights of an encoder come from, and the place to put them by hand."""
    configuration = _configuration(name)
    url = configuration.url
    if configuration.hf_hub_id:
        url = hub.hf_hub_url(configuration.hf_hub_id, _HUB_FILE)
    assert isinstance(url, str)
    return url, f"pretrained/{name}{Path(url).suffix}"


def weights_at_hand(name: str) -> str | bool:
    """Return what `arch.args.pretrained` may say of an encoder without any network.

    Args:
        name: A timm name with its tag.

    Returns:
        The path of a file in `pretrained/`, else whether timm has downloaded the weights.
    """
    stems = (name, name.partition(".")[0])
    files = [
        Path("pretrained", f"{stem}{end}") for stem in stems for end in (".safetensors", ".pth")
    ]
    if file := next(filter(Path.is_file, files), None):
        return file.as_posix()
    repository = _configuration(name).hf_hub_id or ""
    return isinstance(hub.try_to_load_from_cache(repository, _HUB_FILE), str)


def _configuration(name: str) -> "PretrainedCfg":
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    assert configuration is not None
    return configuration


def _offline(name: str, error: Exception) -> ConfigError:
    url, file = source_of(name)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(
        f"arch.args.pretrained: cannot download the weights of {name} ({reason})\n"
        f"  from: {url}\n"
        f"  without internet, put that file at {file} (any place will do) and write\n"
        f'    "pretrained": "{file}"\n'
        '  in arch.args, or "pretrained": false to start from random weights'
    )

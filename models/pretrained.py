"""Where an encoder's pretrained weights come from: timm's hub, or a file that the user names."""

import pickle
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_HUB_FILE = "model.safetensors"
_SHOWN_KEYS = 3
_TIMEOUT_S = 20


def weights_of(name: str, pretrained: str | bool) -> dict[str, Tensor] | None:
    """Return the weights that ``pretrained`` asks for, under timm's names.

    Args:
        name: A timm name with or without its tag.
        pretrained: True for timm's own weights, a path for a file, False for none.

    Raises:
        ConfigError: timm has no weights for ``name``, or they cannot be downloaded.
        CheckpointError: The file is missing, damaged, or holds no weights.
    """
    if isinstance(pretrained, str):
        return _read(Path(pretrained))
    return _fetch(name) if pretrained else None


def check_fit(network: nn.Module, weights: dict[str, Tensor], *, name: str, path: str) -> None:
    """Verify that a file holds the encoder it is said to hold.

    The classifier and a stem of other width may differ; timm drops the one and adapts the other.

    Raises:
        CheckpointError: Tensors are missing or have another shape.
    """
    expected = network.state_dict()
    configuration: Any = network.pretrained_cfg
    ignored = _names(configuration["classifier"]) | {
        f"{stem}.weight" for stem in _names(configuration["first_conv"])
    }
    missing = [
        key
        for key, value in expected.items()
        if not key.startswith(tuple(ignored))
        # Files from before torch 0.4.1 do not count the batches; nothing depends on the number.
        and not key.endswith("num_batches_tracked")
        and (key not in weights or weights[key].shape != value.shape)
    ]
    if missing:
        shown = ", ".join(missing[:_SHOWN_KEYS])
        found = ", ".join(list(weights)[:_SHOWN_KEYS])
        raise CheckpointError(
            f"{path}: not the weights of {name}: {len(missing)} of {len(expected)} tensors are "
            f"missing or have another shape ({shown}, ...)\n  found in the file: {found}, ...\n"
            f"  expected: timm's own file for {name}; name the encoder the file belongs to in "
            "arch.args.backbone"
        )


def _names(value: str | Sequence[str] | None) -> set[str]:
    if value is None:
        return set()
    return {value} if isinstance(value, str) else set(value)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"arch.args.pretrained: no such file: {path}\n"
            "  expected: true, false, or the path of a weight file (.pth or .safetensors)"
        )
    from timm.models import load_state_dict

    try:
        weights = load_state_dict(str(path), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # safetensors raises a class of its own straight below Exception.
        if not type(error).__module__.startswith("safetensors"):
            raise
        raise _unreadable(path, error) from error
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: holds no weights; expected a state dict of tensors")
    return weights


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    reason = reason.partition(" No automatic unsafe")[0]  # then timm advises to load it unsafely
    return CheckpointError(f"{path}: damaged or not a weight file ({reason})")


def _fetch(name: str) -> dict[str, Tensor]:
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    if configuration is None or not (configuration.hf_hub_id or configuration.url):
        raise ConfigError(
            f'arch.args.pretrained: no pretrained weights exist for {name}; write "pretrained": '
            "false, or the path of a file of your own"
        )
    try:
        if configuration.hf_hub_id:
            return _from_hub(configuration.hf_hub_id)
        assert isinstance(configuration.url, str)
        return torch.hub.load_state_dict_from_url(
            configuration.url, map_location="cpu", progress=False, weights_only=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _offline(name, configuration, error) from error


def _from_hub(repository: str) -> dict[str, Tensor]:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from safetensors.torch import load_file

    path = try_to_load_from_cache(repository, _HUB_FILE)
    if not isinstance(path, str):
        # The hub's own client tries for three quarters of a minute before it gives up.
        if not constants.HF_HUB_OFFLINE:
            _reach(f"{constants.ENDPOINT}/{repository}/resolve/main/{_HUB_FILE}")
        path = hf_hub_download(repository, _HUB_FILE)
    return load_file(path)


def _reach(url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - https, from timm's table
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # an answer, if only that HEAD is not allowed: the download itself will tell


def _offline(name: str, configuration: "PretrainedCfg", error: Exception) -> ConfigError:
    url = configuration.url
    if configuration.hf_hub_id:
        url = f"https://huggingface.co/{configuration.hf_hub_id}/resolve/main/{_HUB_FILE}"
    assert isinstance(url, str)
    file = f"pretrained/{name}{Path(url).suffix}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(
        f"arch.args.pretrained: cannot download the weights of {name} ({reason})\n"
        f"  from: {url}\n"
        f"  without network, put that file at {file} (any place will do) and write\n"
        f'    "pretrained": "{file}"\n'
        '  in arch.args, or "pretrained": false to start from random weights'
    )

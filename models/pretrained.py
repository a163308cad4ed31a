"""Where an encoder's pretrained weights come from: timm's hub, or a file that the user names."""

import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models import hub
from utils.errors import CheckpointError, ConfigError, UserError
from utils.run.checkpoint import load_weights

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_SHOWN_KEYS = 3
_TIMEOUT_S = 20


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
    if isinstance(pretrained, str):
        return _read(Path(pretrained))
    return _fetch(name, only_ask=only_ask) if pretrained else None


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
    return load_weights(path)


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
            path = hub.fetch(configuration.hf_hub_id, only_ask=only_ask)
        else:
            path = _fetch_url(str(configuration.url), only_ask=only_ask)
    except UserError:
        raise
    except Exception as error:  # of whichever client the hub's library uses
        raise _offline(name, configuration, error) from error
    return None if path is None else load_weights(path)


def _fetch_url(url: str, *, only_ask: bool) -> Path | None:
    """As `hub.fetch`, for the few that are elsewhere; most names end in a part of the checksum."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.is_file() and only_ask:
        urllib.request.urlopen(url, timeout=_TIMEOUT_S).close()  # noqa: S310 - from timm's table
        return None
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        torch.hub.download_url_to_file(url, str(path), digest and digest[1])
    return path


def _offline(name: str, configuration: "PretrainedCfg", error: Exception) -> ConfigError:
    url = configuration.url
    if configuration.hf_hub_id:
        url = hub.client.hf_hub_url(configuration.hf_hub_id, hub.FILE)
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

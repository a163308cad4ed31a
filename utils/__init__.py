"""One package a subject; imports nothing of ours above it. CONTRIBUTING.md has the map."""

from pathlib import Path

__all__ = ["PACKAGE", "ROOT", "VERSION"]

VERSION = "1.0.0"
PACKAGE = __name__.removesuffix("utils")  # "segmentation." where it is installed, else nothing
ROOT = Path(__file__).resolve().parents[1]  # with config.json, configs/ and the commands

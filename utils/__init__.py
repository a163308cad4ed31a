"""One package a subject; imports nothing of ours above it. CONTRIBUTING.md has the map."""

VERSION = "1.0.0"  # the one in pyproject.toml

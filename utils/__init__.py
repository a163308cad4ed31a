"""One package a subject; imports nothing of ours above it. CONTRIBUTING.md has the map."""

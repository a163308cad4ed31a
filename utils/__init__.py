"""One subject a file; imports nothing of ours above it."""

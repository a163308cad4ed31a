"""Endings of files: which hold images that can be read, and what converts others."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".npy")

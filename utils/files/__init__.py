"""Reading and writing files: images, masks, TIFF rasters, output folders, locks.

A file's content leaves as arrays in the file's dtype; what the values mean is decided elsewhere.
"""

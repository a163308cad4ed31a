"""Colors, overlays, grids and charts: arrays in, images out.

Nothing is read from or written to disk here, and no score is computed.
"""

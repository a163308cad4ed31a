"""A training run as its user sees it: folder, checkpoints, log, progress, resuming.

What is trained, and how, is not known here: no network, loss or optimizer may enter.
"""

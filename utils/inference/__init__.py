"""From an image to its mask: windows, scales, memory, and the files that are written.

Nothing about training may enter; a model is any callable from images to logits.
"""

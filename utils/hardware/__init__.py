"""Devices, number formats, memory and processes: what depends on the machine.

Nothing here knows about images, classes or runs; every other package may use it.
"""

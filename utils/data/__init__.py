"""From a file's values to a training sample: labels, masks, augmentation, cache, normalization.

No data set's layout (dataloaders/) and no network may enter.
"""

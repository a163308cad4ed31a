"""What models, data sets, loaders and trainers have in common."""

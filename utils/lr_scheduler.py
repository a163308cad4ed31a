"""Learning-rate schedules, at the place where the documentation names them."""

from utils.optim.lr_scheduler import SCHEDULERS, Cosine, Exponential, OneCycle, Poly, Schedule, Step

__all__ = ["SCHEDULERS", "Cosine", "Exponential", "OneCycle", "Poly", "Schedule", "Step"]

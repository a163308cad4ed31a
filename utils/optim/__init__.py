"""What changes weights: optimizers, learning-rate schedules, the update, the averaged weights.

Gradients and parameters are all that is known here: no loss, no data and no logging may enter.
"""

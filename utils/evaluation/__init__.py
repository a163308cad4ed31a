"""Scoring a model on a data set, and telling the result: summary, table, report.

How a model predicts is in utils/inference, what a score means in utils/metrics.
"""

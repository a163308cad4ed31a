"""HTML pages that open offline: their common template, and the page of training runs.

A page is made from files alone; nothing is computed on a network or a data set here.
"""

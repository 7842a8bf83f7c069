"""Train recognizers of small images from scratch, find what is where in them, see why they err, and
ship them.
"""

__version__ = "0.1.0"

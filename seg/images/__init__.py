"""Pixels in, results out: the only place that decodes or writes images.

`read` gives arrays whatever the file, `about` what the file says, `write` saves
results whole or not at all, `formats` knows the tables and the file names of
the results.
"""

from seg import config


class ImageError(config.UserError):
    """An image that cannot be used. One line: which file, what, remedy."""


class ChannelError(ImageError):
    """An image with other channels than are wanted."""

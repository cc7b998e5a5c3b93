"""Pixels in, results out: the only place that decodes or writes images.

`read` gives arrays whatever the file, `about` what the file says, `write` saves
results whole or not at all, `formats` knows the tables and the file names of
the results.
"""

from collections.abc import Mapping

from seg import config


class ImageError(config.UserError):
    """An image that cannot be used. One line: which file, what, remedy."""


class ChannelError(ImageError):
    """An image with other channels than are wanted."""


class TooLargeError(ImageError):
    """An image of more pixels than are decoded here, or a bomb."""


class StackError(ImageError):
    """A stack, of which a plane must be chosen.

    sizes: how many there are to choose from along each axis, as {"Z": 12}.
    """

    def __init__(self, message: str, sizes: Mapping[str, int]):
        super().__init__(message)
        self.sizes = dict(sizes)

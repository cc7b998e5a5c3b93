"""An image becomes objects: engine, stitching, separation, measurements."""

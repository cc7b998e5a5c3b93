"""Keras, the oracle of these tests, computes with JAX too."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports it

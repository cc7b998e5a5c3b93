"""Commands that run from a checkout: python -m launch.NAME."""

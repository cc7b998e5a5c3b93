"""seg against its peers: see `python -m launch.bench --help`."""

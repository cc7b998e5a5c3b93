"""Labelled images in, batches out."""

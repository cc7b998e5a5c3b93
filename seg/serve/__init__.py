"""A bundle as an MLflow model."""

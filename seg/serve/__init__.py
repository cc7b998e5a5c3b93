"""The web application, and a bundle as an MLflow model."""

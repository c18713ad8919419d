"""Masks to the pixel from models that segment and follow objects in video."""

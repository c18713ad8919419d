"""DUSt3R: find and read its weights, encode frames, attend, decode pairs."""

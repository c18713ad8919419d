"""What people look at: the 4D viewer, pictures and videos of a scene, the report."""

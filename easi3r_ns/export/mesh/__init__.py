"""Triangle meshes: what stands still, what moves in each frame, their files."""

"""Global alignment: from the network's predictions for pairs of frames to cameras and depth maps."""

"""What moves: from the attention of the network, from optical flow, and from the geometry of two views."""

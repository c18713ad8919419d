"""Long clips: windows that are aligned one by one and joined, with loop closure."""

"""The network to learn from: where its file is, how it is loaded and checked, and how one is trained."""

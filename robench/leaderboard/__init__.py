"""The leaderboard: models by data set, as JSON and as a static site, computed from run files. Does not import torch."""

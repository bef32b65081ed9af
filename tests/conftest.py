"""One thread: small tensors, and several test runs may share a machine. For the same reason no test has a deadline."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

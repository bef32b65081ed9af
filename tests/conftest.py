"""One thread: small tensors, and several test runs may share a machine."""

import torch

torch.set_num_threads(1)

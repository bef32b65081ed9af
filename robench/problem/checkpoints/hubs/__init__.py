"""Models that are named by where they are published: files of a hub, and models of installed packages.

`hf:USER/REPO` is a file of the Hugging Face Hub; `timm:NAME`, `torchvision:ARCH` and `robustbench:DATASET/THREAT/NAME`
are made by the code of these packages. `names`, `client`, `store` and `huggingface` do not import torch.
"""

"""Vision transformers, Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, with timm's keys.

The small sizes are those of Touvron et al. 2021, https://arxiv.org/abs/2012.12877.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, counted_layers, side

Tokens = Float[Tensor, "B T D"]

EPS = 1e-6  # of the norms
MLP = 4  # times as many features inside a block's dense layers
HEAD = 64  # features of each attention head


@dataclass(frozen=True)
class Size:
    """The features of each token, and the number of blocks."""

    features: int
    depth: int


SIZES = {"tiny": Size(192, 12), "small": Size(384, 12), "base": Size(768, 12), "large": Size(1024, 24)}
OTHER_HEADS = {"small": 12}
"""Other numbers of heads in public use: MoCo v3, Chen et al. 2021 (https://arxiv.org/abs/2104.02057)."""


class Attention(nn.Module):
    """Every token reads from every token, in each head with its own weights."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, tokens: Tokens) -> Tokens:
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # batch, token, part, head, feature
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        shares = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        mixed: Tensor = self.proj((shares @ value).transpose(1, 2).flatten(2))
        return mixed


class MLPBlock(nn.Module):
    """Two dense layers with GELU between them, on each token."""

    def __init__(self, features: int):
        super().__init__()
        self.fc1 = nn.Linear(features, MLP * features)
        self.fc2 = nn.Linear(MLP * features, features)

    def forward(self, tokens: Tokens) -> Tokens:
        changed: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return changed


class Block(nn.Module):
    """Attention and dense layers, each after a norm and added to its input (equations 2 and 3)."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(features, EPS)
        self.attn = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, EPS)
        self.mlp = MLPBlock(features)

    def forward(self, tokens: Tokens) -> Tokens:
        tokens = tokens + self.attn(self.norm1(tokens))
        changed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return changed


class PatchEmbed(nn.Module):
    """Each patch of the image as a token: a convolution whose stride is its kernel."""

    def __init__(self, channels: int, features: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, features, patch, patch)

    def forward(self, x: Inputs) -> Tokens:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class ViT(nn.Module):
    """Patches as tokens behind a class token, with learned positions; the classes are read from the class token."""

    def __init__(self, shape: tuple[int, ...], classes: int, *, size: Size, patch: int, heads: int):
        super().__init__()
        channels, height, width = shape
        self.patch_embed = PatchEmbed(channels, size.features, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.features))
        self.pos_embed = nn.Parameter(torch.randn(1, (height // patch) * (width // patch) + 1, size.features) * 0.02)
        self.blocks = nn.Sequential(*(Block(size.features, heads) for _ in range(size.depth)))
        self.norm = nn.LayerNorm(size.features, EPS)
        self.head = nn.Linear(size.features, classes)

    def forward(self, x: Inputs) -> Logits:
        patches = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def _member(name: re.Match[str]) -> Architecture | None:
    size, patch = SIZES[name["size"]], int(name["patch"])
    usual = size.features // HEAD
    heads = int(name["heads"] or usual)
    if not patch or not heads or size.features % heads:
        return None
    about = f"vision transformer with timm's keys, {size.depth} blocks of {size.features} features, "
    about += f"patches of {patch}x{patch}"
    about += f", {heads} heads" if heads != usual else ""
    about += ", Dosovitskiy et al. 2021 (arXiv:2010.11929)"
    make = partial(ViT, size=size, patch=patch, heads=heads)
    return Architecture(
        name[0], about, make, "patch_embed.proj.weight", "head.weight", patch, multiple=patch, by_shapes=False
    )


def _names(shapes: Shapes) -> Iterator[str]:
    features, patch = (side(shapes, "patch.embed.proj.weight", axis) for axis in (0, 2))
    found = Size(features, counted_layers(shapes, "blocks.{}.attn.qkv.weight"))
    for name, size in SIZES.items():
        if size == found:
            yield f"vit-{name}-{patch}"
            if name in OTHER_HEADS:
                yield f"vit-{name}-{patch}-h{OTHER_HEADS[name]}"


FAMILY = Family(
    pattern=r"vit-(?P<size>tiny|small|base|large)-(?P<patch>\d{1,3})(-h(?P<heads>\d{1,3}))?",
    listed=("vit-tiny-16", "vit-small-16", "vit-small-16-h12", "vit-base-16", "vit-large-16", "vit-tiny-4"),
    anchor="patch_embed.proj.weight",
    member=_member,
    names=_names,
    others="vit-SIZE-P for patches of PxP pixels, with -hN for N heads",
)

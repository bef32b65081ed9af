"""Images at moved places, by bilinear interpolation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "B C H W"]


def pixels(x: Images) -> tuple[Float[Tensor, "H 1"], Float[Tensor, "W"]]:
    """The numbers of the rows, as a column, and of the columns."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=x.dtype)
    return rows[:, None], torch.arange(width, device=x.device, dtype=x.dtype)


def sampled(x: Images, rows: Float[Tensor, "B H W"], columns: Float[Tensor, "B H W"]) -> Images:
    """The images at these coordinates, by bilinear interpolation; black outside."""
    height, width = x.shape[-2:]
    grid = torch.stack([_from_middle(columns, width), _from_middle(rows, height)], dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _from_middle(place: Tensor, length: int) -> Tensor:
    """Pixel numbers as coordinates in which the centre is 0 and the edges are -1 and 1."""
    return (2 * place + 1) / length - 1

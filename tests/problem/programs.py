"""Classifiers of 8x8 images as people write them, for TorchScript."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.dropout, self.dense = nn.Dropout(0.1), nn.Linear(64, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.norm(self.conv(x))))
        return F.log_softmax(self.dense(self.dropout(x).flatten(1)), dim=1)


class Block(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(ins, outs, 1, stride), nn.BatchNorm2d(outs)) if stride > 1 else None

    def forward(self, x):
        identity = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.SiLU())
        self.layers = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.layers(self.stem(x))), 1))


class Attention(nn.Module):
    """A vision transformer of one layer."""

    def __init__(self, fused: bool = True):
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 4, 4)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.rand(1, 5, 16))
        self.norm1, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.mlp = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head, self.fused = nn.Linear(16, 10), fused

    def attend(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, 2, C // 2).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        else:
            y = (q * 8**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(B, N, C))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        x = x + self.attend(self.norm1(x))
        return self.head((x + self.mlp(self.norm2(x)))[:, 0])


class Encoder(nn.Module):
    """torch's own transformer, on rows of pixels."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.layers = nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.layers(self.embed(x[:, 0])).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), nn.GRU(12, 6)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        y, _ = self.lstm(x[:, 0])
        z, _ = self.gru(y)
        return self.head(z[:, -1])


class Noisy(nn.Module):
    """Answers at random, but for the seed."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(64, 10)

    def forward(self, x):
        x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(x.shape, device=x.device)
        return self.dense((x * torch.bernoulli(torch.full_like(x, 0.5))).flatten(1))


class Controlled(nn.Module):
    """Loops, branches, errors, and attributes that are no tensors."""

    table: dict[str, int]
    limit: Optional[int]  # noqa: UP045 (as people write it)
    pair: tuple[int, float]
    sizes: list[int]

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(3)])
        self.heads = nn.ModuleDict({"one": nn.Linear(64, 10)})
        self.table, self.limit, self.pair, self.sizes, self.kind = {"a": 1, "b": 2}, None, (1, 2.5), [1, 2], "mean"
        self.register_buffer("seen", torch.zeros(1, dtype=torch.long))

    def times(self, key: str, otherwise: int = 3) -> int:
        return self.table.get(key, otherwise)

    def forward(self, x: Tensor, scale: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        x = x.flatten(1)
        if x.size(1) != 64:
            raise ValueError(f"expected 64 pixels, got {x.size(1)}")
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x)) if i < 2 else layer(x)
        n = 0
        while n < self.times("b"):
            x = x * self.pair[1] / 2.5
            n += len(self.sizes) - 1
        if scale is not None:
            x = x * scale
        answers = [head(x) for _, head in self.heads.items()]
        assert len(answers) == 1, "one head"
        self.seen += 1
        return {"logits": answers[0]}["logits"]


class Mixed(nn.Module):
    """Many operators of many kinds."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv2d(1, 4, 3, padding="same"), nn.InstanceNorm2d(4), nn.PReLU()
        self.widen, self.grow = nn.ConvTranspose2d(4, 2, 2, 2), nn.Upsample(scale_factor=2.0, mode="bilinear")
        self.acts = nn.Sequential(
            *(nn.ELU(), nn.SELU(), nn.CELU(), nn.LeakyReLU(), nn.Hardswish(), nn.Mish(), nn.Softplus(), nn.Tanh()),
            *(nn.GELU("tanh"), nn.ReLU6(), nn.Hardtanh(), nn.LogSigmoid(), nn.Dropout2d(0.1), nn.ReflectionPad2d(1)),
        )
        self.embed, self.head = nn.Embedding(4, 8), nn.Linear(8, 10)

    def forward(self, x):
        y = self.acts(self.grow(self.up(self.widen(self.norm(self.conv(x))))))
        y = F.interpolate(y, size=(16, 16), mode="bicubic", antialias=True)
        y = F.interpolate(y, scale_factor=0.5)
        grid = F.affine_grid(torch.eye(2, 3).repeat(y.size(0), 1, 1), list(y.shape), align_corners=False)
        y = torch.einsum("bchw->bhw", F.grid_sample(y, grid, align_corners=False))
        y = F.normalize(F.pad(y, (1, 1)), dim=-1).clamp(-3, 3).mean(1)
        y = F.adaptive_avg_pool1d(y.unsqueeze(1), 8).squeeze(1)
        y = y + self.embed(torch.argmax(y, dim=1) % 4)
        y = torch.where(y > 0, y, y * 0.1)
        y[:, 0] = 0.0
        mask = y.new_zeros(y.shape)
        mask[:, :2] += 1
        values, index = y.masked_fill(mask > 0, 0.0).topk(8, dim=1)
        y = torch.gather(y, 1, index) + values
        a, b = y.chunk(2, 1)
        y = torch.cumsum(torch.roll(torch.stack([a, b], -1).flatten(1), 1, 1), 1)
        y = y * (torch.linspace(0.0, 1.0, 8) + torch.arange(8).float()).unsqueeze(0)
        return self.head(F.softmax(y, dim=-1) + F.silu(y) + F.glu(torch.cat([y, y], 1)))


PROGRAMS = {
    "small": Small,
    "residual": Residual,
    "attention, fused": Attention,
    "attention, written out": lambda: Attention(fused=False),
    "torch's transformer": Encoder,
    "recurrent": Recurrent,
    "noisy": Noisy,
    "control flow": Controlled,
    "many operators": Mixed,
}

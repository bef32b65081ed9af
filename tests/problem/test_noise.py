"""Noise belongs to its row and looks random."""

import torch

from robench.problem.noise import keyed, normal, text_key, uniform


def test_a_row_meets_the_same_noise_whoever_its_neighbours_are():
    examples = torch.arange(50)
    together = uniform(keyed(7, examples, 3, draw=1), 0, 100)
    for i in (0, 17, 49):
        alone = uniform(keyed(7, examples[i : i + 1], 3, draw=1), 0, 100)
        assert torch.equal(alone[0], together[i])
    assert torch.equal(uniform(keyed(7, examples.flip(0), 3, draw=1), 0, 100).flip(0), together)


def test_seed_example_attack_and_draw_all_change_it():
    base = {"seed": 0, "example": 5, "attack": 9, "draw": 2}
    streams = [base] + [{**base, key: 77} for key in base]
    rows = [
        uniform(keyed(s["seed"], torch.tensor([s["example"]]), s["attack"], draw=s["draw"]), 0, 200) for s in streams
    ]
    rows.append(uniform(keyed(0, torch.tensor([5]), 9, draw=2), 1, 200))
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert abs(torch.corrcoef(torch.cat([a, b]))[0, 1].item()) < 0.25


def test_uniform_is_uniform_within_rows_and_across_them():
    u = uniform(keyed(0, torch.arange(2000), draw=0), 0, 50).double()
    assert 0 < u.min() < u.max() < 1
    for along in (u.flatten(), u[:, 0], u[0], u[:, -1]):
        n = len(along)
        spread = along.sort().values - (torch.arange(n) + 0.5) / n  # Kolmogorov and Smirnov, at 0.1 %
        assert spread.abs().max() < 1.95 / n**0.5
    neighbours = torch.corrcoef(u[:, :8].T) - torch.eye(8)
    assert neighbours.abs().max() < 0.1


def test_normal_has_the_moments_of_a_normal():
    z = normal(keyed(0, torch.arange(500), draw=0), 0, torch.zeros(500, 1, 20, 20)).double()
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1


def test_a_text_key_is_the_same_on_every_machine():
    assert text_key("pgd") == 21364026964170201

"""Noise is fixed by its row, and is statistically random."""

import torch

from robench.problem.noise import keyed, normal, text_key, uniform


def test_the_noise_of_a_row_does_not_depend_on_the_other_rows():
    examples = torch.arange(50)
    together = uniform(keyed(7, examples, 3, restart=1), 0, 100)
    for i in (0, 17, 49):
        alone = uniform(keyed(7, examples[i : i + 1], 3, restart=1), 0, 100)
        assert torch.equal(alone[0], together[i])
    assert torch.equal(uniform(keyed(7, examples.flip(0), 3, restart=1), 0, 100).flip(0), together)


def test_the_noise_depends_on_seed_example_attack_and_restart():
    base = {"seed": 0, "example": 5, "attack": 9, "restart": 2}
    streams = [base] + [{**base, key: 77} for key in base]
    rows = [
        uniform(keyed(s["seed"], torch.tensor([s["example"]]), s["attack"], restart=s["restart"]), 0, 200)
        for s in streams
    ]
    rows.append(uniform(keyed(0, torch.tensor([5]), 9, restart=2), 1, 200))
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert abs(torch.corrcoef(torch.cat([a, b]))[0, 1].item()) < 0.25


def test_uniform_noise_is_uniform_within_rows_and_across_rows():
    u = uniform(keyed(0, torch.arange(2000), restart=0), 0, 50).double()
    assert 0 < u.min() < u.max() < 1
    for along in (u.flatten(), u[:, 0], u[0], u[:, -1]):
        n = len(along)
        spread = along.sort().values - (torch.arange(n) + 0.5) / n  # Kolmogorov and Smirnov, at 0.1 %
        assert spread.abs().max() < 1.95 / n**0.5
    neighbours = torch.corrcoef(u[:, :8].T) - torch.eye(8)
    assert neighbours.abs().max() < 0.1


def test_normal_noise_has_the_moments_of_a_normal_distribution():
    z = normal(keyed(0, torch.arange(500), restart=0), 0, torch.zeros(500, 1, 20, 20)).double()
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1


def test_a_text_key_is_the_same_on_every_machine():
    assert text_key("pgd") == 21364026964170201

"""The frontal factorisation against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easi3r_ns.align.solvers import frontal
from easi3r_ns.align.solvers.frontal import Clique, NotPositiveDefinite


def random_cliques(numbers: list[list[int]], size: int) -> tuple[list[Clique], torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    H, b, found = torch.zeros(size, size).double(), torch.zeros(size).double(), []
    for index in map(torch.tensor, numbers):
        root = torch.randn(len(index), len(index) + 2, generator=g, dtype=torch.float64)
        found.append(Clique(index, root @ root.T, torch.randn(len(index), generator=g, dtype=torch.float64)))
        H[index[:, None], index] += found[-1].matrix
        b[index] += found[-1].gradient
    return found, H, b


CHAINS = {
    "band": [[k, k + 1, k + 2] for k in range(9)],
    "loop": [[k, (k + 1) % 11] for k in range(11)],
    "border": [[10, k, k + 1] for k in range(9)],
    "dense": [list(range(11))],
}


@pytest.mark.parametrize("name", CHAINS)
def test_frontal_solution_is_the_dense_one(name):
    cliques, H, b = random_cliques(CHAINS[name], 11)
    right = torch.linspace(-1, 1, 22, dtype=torch.float64).view(11, 2)
    last = frontal.last_uses((c.index for c in cliques), 11)
    X = frontal.solve_frontal(cliques, last, 0.1, right)
    expected = torch.linalg.solve(H + 0.1 * H.diag().diag(), torch.cat([-b[:, None], right], dim=1))
    torch.testing.assert_close(X, expected, rtol=1e-8, atol=1e-9)


def test_the_widest_front_is_that_of_a_naive_count():
    generator = np.random.default_rng(3)
    names = [torch.from_numpy(generator.choice(40, size=6, replace=False)) for _ in range(12)]
    sets = [set(index.tolist()) for index in names]
    alive = [len(set().union(*sets[: k + 1]) & set().union(*sets[k:])) for k in range(12)]
    assert frontal.widest(names, frontal.last_uses(names, 40)) == max(alive)


def test_unknowns_that_nothing_names_stay_where_they_are():
    cliques, _, _ = random_cliques([[0, 2], [2, 3]], 5)
    X = frontal.solve_frontal(cliques, torch.tensor([0, -1, 1, 1, -1]), 0.0, torch.zeros(5, 0).double())
    assert X[1] == X[4] == 0 and (X[[0, 2, 3]] != 0).all()


def test_a_matrix_that_is_not_positive_is_refused():
    bad = Clique(torch.arange(2), torch.tensor([[1.0, 2], [2, 1]]).double(), torch.ones(2).double())
    with pytest.raises(NotPositiveDefinite):
        frontal.solve_frontal([bad], torch.tensor([0, 0]), 0.0, torch.zeros(2, 0).double())

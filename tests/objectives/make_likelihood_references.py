"""Writes likelihood_references.npz: log probabilities by PyTorch and scvi-tools over extreme arguments, in float64.

python tests/objectives/make_likelihood_references.py  # with torch and scvi-tools 1.5.1
"""

from pathlib import Path

import numpy as np
import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from torch import distributions

COUNTS = torch.tensor([0.0, 1.0, 2.0, 7.0, 100.0, 12_345.0, 1e6], dtype=torch.float64)
LOGS = torch.tensor([-18.0, -7.0, -1.0, 0.0, 2.0, 7.0, 14.0], dtype=torch.float64)  # of means and dispersions
LOGITS = torch.tensor([-30.0, -3.0, 0.0, 3.0, 30.0], dtype=torch.float64)
FRACTIONS = torch.tensor([1e-4, 0.1, 0.5, 0.9, 0.9999], dtype=torch.float64)


def main() -> None:
    x, log_mean, log_dispersion, logits = torch.meshgrid(COUNTS, LOGS, LOGS, LOGITS, indexing="ij")
    mean, dispersion = log_mean.exp(), log_dispersion.exp()
    negative_binomial = distributions.NegativeBinomial(dispersion, logits=log_mean - log_dispersion)
    # Its own formula of the negative binomial adds 1e-8 to what it takes logarithms of, which shows below 1e-4.
    inflated = ZeroInflatedNegativeBinomial(mu=mean, theta=dispersion, zi_logits=logits)
    t, location, log_df = torch.meshgrid(torch.cat([-COUNTS, COUNTS]), LOGS, LOGS, indexing="ij")
    fraction, logit, log_concentration = torch.meshgrid(FRACTIONS, LOGS[1:-1], LOGS[1:], indexing="ij")
    a, b = (log_concentration.exp() * torch.sigmoid(sign * logit) for sign in (1, -1))
    np.savez_compressed(
        Path(__file__).with_name("likelihood_references.npz"),
        counts=COUNTS,
        logs=LOGS,
        logits=LOGITS,
        fractions=FRACTIONS,
        poisson=distributions.Poisson(mean).log_prob(x)[:, :, 0, 0],
        negative_binomial=negative_binomial.log_prob(x)[..., 0],
        zero_inflated=inflated.log_prob(x),
        student_t=distributions.StudentT(log_df.exp(), location).log_prob(t),
        beta=distributions.Beta(a, b).log_prob(fraction),
    )


if __name__ == "__main__":
    main()

"""SAELens: its TopK model for training, and its forward pass, in a loop with Adam."""

import numpy as np
import torch
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

from experiments.benchmark.contenders import Contender, Given, training
from experiments.benchmark.contenders.pytorch import count, use_pinned_cores
from experiments.benchmark.works import SAE_K, Work


def train(work: Work, given: Given, variant: str = "") -> Contender:
    use_pinned_cores()
    kernel = given.weights["params/bottleneck/dense/kernel"]
    size, features = kernel.shape
    # Without the decoder's norms in the choice of units, as in aejax's model.
    config = TopKTrainingSAEConfig(d_in=size, d_sae=features, k=SAE_K, rescale_acts_by_decoder_norm=False)
    model = TopKTrainingSAE(config)
    names = {"W_enc": "bottleneck/dense/kernel", "b_enc": "bottleneck/dense/bias"}
    names |= {"W_dec": "decoder/dense_0/kernel", "b_dec": "decoder/dense_0/bias"}
    with torch.no_grad():
        for name, path in names.items():
            getattr(model, name).copy_(torch.tensor(given.weights[f"params/{path}"]))
    x = torch.from_numpy(given.floats()).flatten(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def steps(batches: list[torch.Tensor]) -> float:
        losses = []
        for rows in batches:
            optimizer.zero_grad()
            output = model.training_forward_pass(TrainStepInput(x[rows], {}, None, 0, False))
            output.loss.backward()
            optimizer.step()
            losses.append(output.loss.detach())
        return torch.stack(losses).mean().item()

    def prepare(rows: np.ndarray) -> list[torch.Tensor]:
        return list(torch.from_numpy(rows).long())

    return training(given, work.steps, count(model), prepare, steps)

"""Writes quantizers.npz: what vector-quantize-pytorch makes of given vectors and codebooks.

    python tests/models/make_quantizer_references.py

It needs torch and vector-quantize-pytorch (1.32.0 wrote the file that is committed); the tests read the file alone.
"""

from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import FSQ, LFQ, GroupedResidualFSQ, ResidualFSQ, ResidualLFQ, SimVQ, VectorQuantize

BATCH, POSITIONS = 6, 5


def normal(*shape):
    return torch.randn(*shape, requires_grad=True)


def unsquash(x, levels):
    """Returns what ResidualFSQ, which clamps softly at n / (n - 1), maps to tanh(x)."""
    clamp = 1 + 1 / (torch.tensor(levels) - 1)
    return clamp * torch.atanh(torch.tanh(x.double()) / clamp).float()


def main():
    torch.manual_seed(0)
    found = {}

    def save(name, **arrays):
        for key, value in arrays.items():
            found[f"{name}/{key}"] = torch.as_tensor(value).detach().numpy()

    levels = [4, 2, 5]
    x, weights = normal(BATCH, POSITIONS, 3), torch.randn(BATCH, POSITIONS, 3)
    z, indices = FSQ(levels, preserve_symmetry=True)(x)
    (z * weights).sum().backward()
    save("fsq", x=x, z=z, indices=indices, weights=weights, gradient=x.grad)

    levels = [8, 5, 2]
    x = normal(BATCH, POSITIONS, 3)
    z, indices = ResidualFSQ(levels=levels, num_quantizers=3)(unsquash(x, levels))
    save("residual_fsq", x=x, z=z, indices=indices)

    x = normal(BATCH, POSITIONS, 6)
    z, indices = GroupedResidualFSQ(dim=6, groups=2, levels=levels, num_quantizers=2)(unsquash(x, levels * 2))
    save("grouped_residual_fsq", x=x, z=z, indices=indices)  # indices: [groups, batch, positions, levels]

    x = normal(BATCH, POSITIONS, 4)
    lfq = ResidualLFQ(dim=4, codebook_size=16, num_quantizers=3, entropy_loss_weight=0.0, commitment_loss_weight=1.0)
    z, indices, losses = lfq.train()(x)
    save("residual_lfq", x=x, z=z, indices=indices, commitment=losses)  # [levels], means over all values

    x, weights = normal(BATCH, POSITIONS, 4), torch.randn(BATCH, POSITIONS, 4)
    bsq = LFQ(dim=4, spherical=True, commitment_loss_weight=1.0).train()
    (z, indices, _), losses = bsq(x, inv_temperature=2.0, return_loss_breakdown=True)
    (z * weights).sum().backward()
    save("bsq", x=x, z=z, indices=indices, weights=weights, gradient=x.grad)
    save("bsq", commitment=losses.commitment, sample_entropy=losses.per_sample_entropy)

    for rotation in (False, True):
        x, weights = normal(BATCH, POSITIONS, 3), torch.randn(BATCH, POSITIONS, 3)
        simvq = SimVQ(dim=3, codebook_size=11, rotation_trick=rotation)
        z, indices, loss = simvq(x)
        ((z * weights).sum() + loss).backward()
        transform = simvq.code_transform.weight
        name = "simvq_rotation" if rotation else "simvq"
        save(name, x=x, z=z, indices=indices, weights=weights, loss=loss, gradient=x.grad)
        save(name, frozen=simvq.frozen_codebook, transform=transform.T, transform_gradient=transform.grad.T)

    for separate in (False, True):
        x = normal(BATCH, POSITIONS, 6)
        heads = VectorQuantize(dim=6, codebook_size=7, codebook_dim=2, heads=3, separate_codebook_per_head=separate)
        heads._codebook.embed.data.normal_()
        z, indices, _ = heads.eval()(x)
        save("grouped_vq" if separate else "multi_head_vq", x=x, z=z, indices=indices, codes=heads._codebook.embed)

    np.savez_compressed(Path(__file__).with_name("quantizers.npz"), **found)


if __name__ == "__main__":
    main()

"""pythae: its VAE with an encoder and a decoder of the user's own, its trainer, its `embed` and its `get_nll`."""

import tempfile

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE as PythaeVAE
from pythae.models import VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig

from experiments.benchmark.contenders import Contender, Given, mean_square, training
from experiments.benchmark.contenders.pytorch import count, use_pinned_cores
from experiments.benchmark.contenders.torch_models import VAE, load
from experiments.benchmark.works import Work


class Encoder(BaseEncoder):
    def __init__(self, vae: VAE):
        super().__init__()
        self.hidden, self.heads = vae.encoder, vae.bottleneck

    def forward(self, x):
        h = self.hidden(x.flatten(1))
        return ModelOutput(embedding=self.heads["mean"](h), log_covariance=2 * self.heads["log_std"](h))


class Decoder(BaseDecoder):
    def __init__(self, vae: VAE):
        super().__init__()
        self.hidden = vae.decoder

    def forward(self, z):
        return ModelOutput(reconstruction=torch.sigmoid(self.hidden(z)))


def train(work: Work, given: Given, variant: str) -> Contender:
    """Epochs of its trainer, over loaders that it makes, with all that it does in a step."""
    model = _model(given)
    images = _images(given)
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), num_epochs=1, learning_rate=1e-3, per_device_train_batch_size=work.batch
    )
    trainer = BaseTrainer(model, _dataset(images[: work.batch]), training_config=config)
    trainer.prepare_training()

    def epoch(loader) -> float:
        trainer.train_loader = loader
        return trainer.train_step(epoch=1)

    prepare = lambda rows: trainer.get_train_dataloader(_dataset(images[rows.ravel()]))  # noqa: E731
    return training(given, work.steps, count(model), prepare, epoch)


def encode(work: Work, given: Given, variant: str) -> Contender:
    """`embed`, batch by batch. It decodes, too, and draws each code."""
    model, images = _model(given).eval(), _images(given)

    @torch.no_grad()
    def check() -> dict[str, float]:
        return mean_square(model.encoder(images[:1_000]).embedding)

    @torch.no_grad()
    def turn() -> int:
        return len(torch.cat([model.embed(batch) for batch in images.split(work.batch)]).numpy())

    return Contender(count(model), check, turn)


def likelihood(work: Work, given: Given, variant: str) -> Contender:
    """`get_nll`, which takes the images one by one: 50 of them are enough to tell its speed.

    It draws its samples in whole batches, and so 200 of them where `batch_size` is 100. What it returns is
    log p(x), not the negative of it.
    """
    model, images = _model(given).eval(), _images(given)[:50]

    @torch.no_grad()
    def nats() -> float:
        return -float(model.get_nll(images, n_samples=200, batch_size=work.batch))

    def turn() -> int:
        nats()
        return len(images)

    return Contender(count(model), lambda: {"nats of 50 images": nats()}, turn)


def _model(given: Given) -> PythaeVAE:
    use_pinned_cores()
    vae = VAE(given)
    load(vae, given)
    config = VAEConfig(
        input_dim=(1, *given.images.shape[1:3]),
        latent_dim=given.weights["params/bottleneck/mean/bias"].size,
        reconstruction_loss="bce",
    )
    return PythaeVAE(config, Encoder(vae), Decoder(vae))


def _images(given: Given) -> torch.Tensor:
    return torch.from_numpy(given.floats()).movedim(-1, 1)


def _dataset(images: torch.Tensor) -> BaseDataset:
    return BaseDataset(images, torch.zeros(len(images)))

"""Keras 3 on JAX: a functional model, `compile` and `fit` on arrays in memory."""

import keras
import numpy as np
from keras import layers, ops

from experiments.benchmark.contenders import Contender, Given, training
from experiments.benchmark.works import Work


def train(work: Work, given: Given, variant: str) -> Contender:
    model = _conv(given)
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), loss=_error)

    def fit(images: np.ndarray) -> float:
        return model.fit(images, images, batch_size=work.batch, shuffle=False, verbose=0).history["loss"][0]

    return training(given, work.steps, model.count_params(), lambda rows: given.floats(rows.ravel()), fit)


def _conv(given: Given) -> keras.Model:
    x = image = keras.Input(given.images.shape[1:])
    for i, width in enumerate(given.sizes("encoder/conv_{}")[1:]):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"encoder_conv_{i}")(x)
        x = layers.MaxPooling2D()(x)
    code, *hidden, channels = given.sizes("decoder/conv_{}")
    x = layers.Conv2D(code, 3, padding="same", activation="relu", name="bottleneck_conv")(x)
    for i, width in enumerate(hidden):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"decoder_conv_{i}")(x)
        x = layers.UpSampling2D()(x)
    model = keras.Model(image, layers.Conv2D(channels, 3, padding="same", name=f"decoder_conv_{len(hidden)}")(x))
    for layer in model.layers:
        if layer.weights:
            path = "params/" + layer.name.replace("_", "/", 1)
            layer.set_weights([given.weights[f"{path}/kernel"], given.weights[f"{path}/bias"]])
    return model


def _error(x, logits):
    """Summed over an image's pixels, as in the works; Keras's own would average."""
    return ops.sum(ops.binary_crossentropy(x, logits, from_logits=True), axis=(1, 2, 3))

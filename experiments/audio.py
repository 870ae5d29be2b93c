"""Measures the codec of sound `audio_rvq` on speech: python -m experiments.audio

espeak-ng (apt install espeak-ng) speaks random numbers in several voices, at 16 kHz; without it, or without
soundfile, the synthetic `voices` take the place of speech. Trains on some sentences, and measures on others the SI-SDR
and the squared error by the number of levels, and how far a reconstruction in chunks is from that of the whole. Writes
experiments/results/audio.json; a few minutes on two CPU cores.
"""

import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from scipy.signal import resample_poly

import aejax
from aejax import data
from aejax.cli import command
from aejax.data.sounds import RATE
from aejax.evaluation.levels import si_sdr
from aejax.evaluation.subject import Measure
from aejax.files import write_whole
from experiments.machine import machine

_OUT = flags.DEFINE_string("audio_out", "experiments/results/audio.json", "File of the figures.")
_ARG = flags.DEFINE_string("audio_arg", "", "Argument of the config, e.g. tiny.")
_SENTENCES = flags.DEFINE_integer("audio_sentences", 60, "Sentences of the train split.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("audio_workdir", "", "Workdir of the run; empty: one that is removed.")
VOICES = ("en-gb", "en-us+f3", "en-us+m3")
ESPEAK_RATE = 22_050


def speak(folder: Path, sentences: int) -> None:
    """Writes .wav files of speech into the folders train, validation and test of `folder`, other numbers in each."""
    import soundfile

    rng = np.random.default_rng(0)
    for part, count in (
        ("train", sentences),
        ("validation", max(sentences // 10, 1)),
        ("test", max(sentences // 6, 1)),
    ):
        (folder / part).mkdir(parents=True)
        for i in range(count):
            file, text = folder / part / f"{i:03}.wav", ", ".join(map(str, rng.integers(1_000, size=4)))
            options = ["-v", VOICES[i % len(VOICES)], "-s", str(rng.integers(130, 190))]
            subprocess.run(["espeak-ng", *options, "-w", str(file), text], check=True, capture_output=True)
            samples, rate = soundfile.read(str(file))
            if rate != ESPEAK_RATE:
                raise aejax.InputError(f"espeak-ng wrote {rate} samples per second, and {ESPEAK_RATE} were expected")
            soundfile.write(str(file), np.clip(resample_poly(samples, 320, 441), -1, 1), RATE)


def compare_chunks(run: aejax.Run, x: np.ndarray, chunk: int) -> dict[str, float]:
    """Returns how far a signal x [1, time, 1] that is coded in chunks is from the same coded at once."""
    whole, parts = run.signals.encode(x), run.signals.encode(x, chunk)
    decoded, in_chunks = run.signals.decode(whole["z"]), run.signals.decode(whole["z"], chunk)
    return {
        "samples": x.shape[1],
        "chunk": chunk,
        "share_of_other_indices": float((whole["indices"] != parts["indices"]).mean()),
        "largest_difference": float(np.abs(decoded - in_chunks).max()),
        "si_sdr": float(si_sdr(x, decoded[:, : x.shape[1]])[0]),
    }


def main() -> None:
    config = aejax.load_config(f"audio_rvq:{_ARG.value}").unlock()
    speech = shutil.which("espeak-ng") is not None and importlib.util.find_spec("soundfile") is not None
    with tempfile.TemporaryDirectory() as scratch:
        if speech:
            speak(Path(scratch, "speech"), _SENTENCES.value)
            config.data.name = str(Path(scratch, "speech"))
        else:
            print("espeak-ng or soundfile is not there: synthetic voices take the place of speech")
        begin, of_cpu = time.perf_counter(), time.process_time()
        run = aejax.train(config, _WORKDIR.value or Path(scratch, "run"), quiet=True)
        seconds, of_cpu = time.perf_counter() - begin, time.process_time() - of_cpu
        measured = run.evaluate(groups=["reconstruction", "levels", "codes"])
        test = data.load(config.data).test
        x = data.read(test.subset(np.arange(min(len(test), 16)), "test"))["x"].reshape(1, -1, 1)
        chunks = compare_chunks(run, x, 4 * run.signals.factor * 8)
    found = {key: m.value for group in measured.values() for key, m in group.items() if isinstance(m, Measure)}
    levels, factor = config.bottleneck.levels, 2 ** len(config.encoder.features)
    rate = RATE / factor * np.log2(config.bottleneck.codes) / 1_000
    entry = {
        "command": "python -m experiments.audio",
        "data": "speech of espeak-ng" if speech else "voices",
        "steps": run.step,
        "batch_size": config.batch_size,
        "training_seconds": round(seconds, 1),
        "training_cpu_seconds": round(of_cpu, 1),
        "kilobits_per_second_and_level": rate,
        "si_sdr_by_level": [found[f"si_sdr_by_level_{k}"] for k in range(1, levels + 1)],
        "squared_error_by_level": [found[f"squared_error_by_level_{k}"] for k in range(1, levels + 1)],
        "perplexity_by_level": [found[f"perplexity_level_{k}"] for k in range(1, levels + 1)],
        "chunks": chunks,
        "machine": machine(),
    }
    write_whole(Path(_OUT.value), json.dumps(entry, indent=1) + "\n")
    print(", ".join(f"{value:.1f}" for value in entry["si_sdr_by_level"]), "dB by the number of levels;", chunks)


if __name__ == "__main__":
    command.run(main)

"""From the seconds of a contest to what is written down: ratios, and the table of all works."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.works import ON_ACCELERATOR, ON_CPU, WORKS, Work

INTRODUCTION = """# aejax beside its peers

By `python -m experiments.benchmark`, from [speed.json](speed.json). Each contender runs in a process of its own,
pinned to the same cores; they take turns, one at work at a time, and of each turn the first half does not count.
Before anything is timed the work is checked to be the same: parameters, and values from the same weights on the same
batches. Images a second are the median of the rounds [lowest - highest], memory is the peak of the contender's
process, with its data and its compiler, or of the accelerator it works on. aejax's ratio is how many times as fast it
is, the median of the ratios round by round; a goal is for the best variant of a peer. Each is started as its users
start it: aejax's commands ask glibc for large pages, which no other does. In brackets, for information, stand peers
with large pages. In (e) pythae's `embed` decodes, too, and in (f) its `get_nll` encodes an image once for each
sample: what their users call, and more work than encoding and than one encoding an image.

"""

SHORT = """
## What is short of its goal, and why

Where a step's time goes: [profile.json](profile.json) (`--work=profile`); each form of a convolution beside the plain
one: [forms.json](forms.json) (`--work=forms`).

What goals would take of the machine stands at the end. Ratios depend on the processor, too: an AMD EPYC without AVX-512
(family 25, model 1) gave 1.08, 1.37, 1.21 and 0.81 times PyTorch in (a) to (d), 2.41 times Keras, 3.63 and 3.83 times
pythae in (e) and (f) the same day. And they carry noise: the same command on the machine of the table, an hour and one
commit before, gave 1.40, 1.53, 1.09 and 0.87 in (a) to (d), 2.00 times Keras, and 0.87 of the bare forward in (e).

- (d): seven tenths of the step are convolutions, the rest is read and written value by value. The kernels' gradients as
  one product, the enlarged images' convolutions by corners, and GroupNorm's sums as products helped and stayed.
  Convolutions with strides in parts of the batch did not, and went. XLA's experimental oneDNN calls help (d) a little,
  slow the VAE and do nothing on the oldest JAX: left off. Winograd's F(2x2, 3x3), written as XLA operations, took 1.5
  times the plain convolution's time at 16x16 and 0.7 at 8x8, with gradients 1.6 and 1.1: memory bounds what it adds.
- (e): the bare jitted forward is reached, so that what is left is the forward's own time.
- (f): the decoder takes 2 x 400 x 804 floating point operations for each of an image's 200 draws, 0.13 x 10^9 an image.
  At the machine's rate of matrix products ([profile.json](profile.json)) they alone bound the work below 20 times
  pythae's rate.

Tried for all and left off: encoders and decoders in bfloat16, on a processor that has instructions for it, took 1.0 to
1.3 times as long; Adam on one vector of all parameters 1.0 to 1.1 times.
"""


SHORT_ON_ACCELERATOR = """
## How to read this

Mixed precision: parameters and losses in float32, encoders and decoders in bfloat16; bottlenecks in float32, of
PyTorch the codebook alone, whose autocast takes the layers of the others, too. It has its fused Adam and all data on
the device.
CUDA graphs spare it launches, which is worth up to four times on small steps and 2% on (c) with 2,048 images: there the
device is the limit, and before it what the host launches, which aejax does once for 32 steps.

Measured on 2026-11-26. The day after, the benchmark came to let PyTorch choose among cuDNN's algorithms, as XLA does,
which was not measured again; and (c) on GPUs got the forms of `aejax/models/conv.py`, with which its steps take the
time in [profile.json](profile.json).

How near each step comes to the device's measured rates of matrix products and of copies, and where its time goes:
[profile.json](profile.json) (`--work=profile`). The largest gap is that of the small steps: (a) with 256 images and (b)
with 128 are made of about a hundred and of seventy kernels of one to three microseconds each, a third of it Adam's, and
neither rate bounds those. XLA's CUDA graphs of a whole loop (`--xla_gpu_enable_command_buffer=+WHILE`) made (b) with
128 images three times slower and changed nothing for the others: left off. (c) and (d) are bound by cuDNN's
convolutions, half of their time, of narrow layers: 64 and 128 channels fill neither.
"""

QUIET = 0.03  # share of the cores' time above which other programs are mentioned


def summary(work: Work, found: Mapping[str, Any], cores: int) -> dict[str, Any]:
    """The entry of a work in speed.json: what `contest` found, rates, and aejax's ratios by peer."""
    contenders = {name: {**of, "images_per_second": _spread(rates(of))} for name, of in found.items()}
    ratios = {name: ratio(found["aejax"], of) for name, of in found.items() if name != "aejax"}
    peers = {}
    for peer in dict.fromkeys(name.partition(", ")[0] for name in ratios):
        best = min((n for n in ratios if n.partition(", ")[0] == peer and CONTENDERS[n].counts), key=ratios.__getitem__)
        peers[peer] = {"best": best, "ratio": round(ratios[best], 3)}
        if goal := work.goals.get(peer):
            peers[peer] |= {"goal": goal, "reached": ratios[best] >= goal}
    seconds, others = (sum(sum(of[key]) for of in found.values()) for key in ("seconds", "others"))
    return {
        "cores": cores,
        "others": round(max(others, 0) / (seconds * cores), 3),
        "what": f"({work.letter}) {work.what}",
        "tolerance": dict(work.tolerance),
        "contenders": contenders,
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "peers": peers,
    }


def sentence(results: Mapping[str, Any]) -> str:
    """What the README says of aejax beside PyTorch."""
    names = (("mlp", "an MLP autoencoder"), ("vae", "an MLP VAE"), ("conv", "`conv`"), ("vq_vae", "a residual VQ-VAE"))
    return ", ".join(f"{what} {results[name]['peers']['pytorch']['ratio']:.1f} times" for name, what in names)


def sentence_on_accelerator(results: Mapping[str, Any]) -> str:
    """What it says of that on an accelerator."""
    names = {"the MLP autoencoder": "mlp", "the VAE": "vae", "`conv`": "conv", "a residual VQ-VAE": "vq_vae"}
    ratios = {
        what: [entry["peers"]["pytorch"]["ratio"] for work, entry in results.items() if WORKS[work].model == name]
        for what, name in names.items()
    }
    device = results["conv_256"]["machine"]["device"]
    pairs = ", ".join(f"{what} {usual:.1f} and {large:.1f}" for what, (usual, large) in ratios.items())
    return f"On one {device} in bfloat16, at the usual batch and at one of thousands: {pairs} times"


def sentence_on_ceilings(profile: Mapping[str, Any]) -> str:
    """And of how near its steps come to the machine's measured rates; on an accelerator at the batch of thousands."""
    steps = [
        of for name, of in profile.items() if name in ON_CPU or (name in ON_ACCELERATOR and of["batch_size"] > 1_000)
    ]
    shares = [[step[f"share_of_{rate}_rate"] for step in steps] for rate in ("matrix", "copy")]
    matrix, copy = (f"{min(found):.0%} to {max(found):.0%}" for found in shares)
    found = f"{matrix} of the measured rate of matrix products"
    return found if set(profile) & set(ON_CPU) else f"{found} and {copy} of that of copies"  # on CPU caches hold much


def rates(of: Mapping[str, Any]) -> list[float]:
    """Images a second in each round."""
    return [images / seconds for images, seconds in zip(of["images"], of["seconds"], strict=True)]


def ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """How many times as fast as they we are: in each round, and the median of that.

    Neighbours in time share what else the machine does, which medians of each alone would not.
    """
    return statistics.median(a / b for a, b in zip(rates(ours), rates(theirs), strict=True))


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 1) for name, value in found.items()}


def text(results: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """All of speed.md; `profile` as in profile.json beside it."""
    reasons = SHORT_ON_ACCELERATOR if set(results) <= set(ON_ACCELERATOR) else SHORT
    return INTRODUCTION + table(results) + reasons + bounds(results, profile) + memory(results)


def table(results: Mapping[str, Any]) -> str:
    """All works of speed.json as Markdown, with the machines they were measured on."""
    lines = [
        "| work | contender | images/s | peak GiB | aejax's ratio | goal |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in WORKS:
        if name in results:
            lines += _rows(results[name])
    shown = [results[name] for name in WORKS if name in results]
    measured: dict[str, dict[str, None]] = {}
    for entry in shown:
        measured.setdefault(_machine(entry), {})[entry["what"].partition(" ")[0]] = None
    notes = dict.fromkeys(f"{', '.join(letters)}: {where}" for where, letters in measured.items())
    # Not a matter of noise alone: libraries that hand each core its share beforehand lose more than those that do not.
    notes |= dict.fromkeys(
        f"**The machine was not quiet**: during {entry['what']} other programs took {entry['others']:.0%} of the cores."
        for entry in shown
        if entry["others"] > QUIET
    )
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def bounds(results: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """A line on the rates of matrix products that the goals would take that are not reached."""
    takes = []
    for name, entry in results.items():
        for peer, of in entry["peers"].items():
            if name in profile and not of.get("reached", True):
                rate = of["goal"] * entry["contenders"][of["best"]]["images_per_second"]["median"]
                gflop = rate * profile[name]["gflop"] / profile[name]["batch_size"]
                takes.append(f"{entry['what'].partition(' ')[0]} {gflop:,.0f} ({of['goal']:g} times {peer})")
    measured = profile.get("matrix_gflop_per_second")
    return f"\nGFLOP/s that a goal would take, of {measured} measured: {'; '.join(takes)}.\n" if takes else ""


def memory(results: Mapping[str, Any]) -> str:
    """A line on the works in which a peer took less memory at its peak than aejax."""
    more = []
    for entry in results.values():
        peak = {name: of["peak_gib"] for name, of in entry["contenders"].items() if not name.startswith("bare")}
        best = min(peak, key=peak.__getitem__)
        if peak[best] < peak["aejax"]:
            more.append(f"{entry['what'].partition(' ')[0]} {peak['aejax']:.2f} beside {peak[best]:.2f} ({best})")
    return f"\nPeak memory above that of the best peer, GiB: {'; '.join(more)}.\n" if more else ""


def _rows(entry: Mapping[str, Any]) -> list[str]:
    goals = {peer["best"]: peer for peer in entry["peers"].values() if "goal" in peer}
    lines = []
    for name, of in entry["contenders"].items():
        rate, goal, aejax = of["images_per_second"], goals.get(name), entry["ratios"].get(name)
        spread = f"{rate['median']:,.0f} [{rate['min']:,.0f} - {rate['max']:,.0f}]"
        ratio = "" if aejax is None else f"{aejax:.2f}" if CONTENDERS[name].counts else f"({aejax:.2f})"
        reached = f"{goal['goal']:g}: {'reached' if goal['reached'] else '**not reached**'}" if goal else ""
        what = "" if lines else entry["what"]
        lines.append(f"| {what} | {name} | {spread} | {of['peak_gib']:.2f} | {ratio} | {reached} |")
    return lines


def _machine(entry: Mapping[str, Any]) -> str:
    machine = dict(entry["machine"])
    versions = ", ".join(
        f"{key} {value}" for key, value in machine.items() if key not in ("device", "cpu", "cores", "date")
    )
    return f"{machine['date']}, {entry['cores']} cores of {machine['cpu']} ({machine['device']}), {versions}."

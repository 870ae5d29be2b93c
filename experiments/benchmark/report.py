"""From the seconds of a contest to what is written down: ratios, and the table of all works."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.works import ON_ACCELERATOR, WORKS, Work

INTRODUCTION = """# aejax compared with its peers

By `python -m experiments.benchmark`, from [speed.json](speed.json). [Notes]({notes}) say how it is measured, and why
some goals are not reached.

"""
QUIET = 0.03  # share of the cores' time above which other programs are mentioned


def summary(work: Work, found: Mapping[str, Any], cores: int) -> dict[str, Any]:
    """Returns the entry of a work in speed.json: what `contest` found, rates, and aejax's ratios by peer."""
    contenders = {name: {**of, "images_per_second": _spread(rates(of))} for name, of in found.items()}
    ratios = {name: ratio(found["aejax"], of) for name, of in found.items() if name != "aejax"}
    peers = {}
    for peer in dict.fromkeys(name.partition(", ")[0] for name in ratios):
        variants = [name for name in ratios if name.partition(", ")[0] == peer and CONTENDERS[name].counts]
        best = min([name for name in variants if name in work.goals] or variants, key=ratios.__getitem__)
        peers[peer] = {"best": best, "ratio": round(ratios[best], 3)}
        if goal := work.goals.get(best, work.goals.get(peer)):
            peers[peer] |= {"goal": goal, "reached": ratios[best] >= goal}
    seconds, others = (sum(sum(of[key]) for of in found.values()) for key in ("seconds", "others"))
    return {
        "cores": cores,
        "others": round(max(others, 0) / (seconds * cores), 3),
        "what": work.what,
        "tolerance": dict(work.tolerance),
        "contenders": contenders,
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "peers": peers,
    }


def rates(of: Mapping[str, Any]) -> list[float]:
    """Returns the images per second in each round."""
    return [images / seconds for images, seconds in zip(of["images"], of["seconds"], strict=True)]


def ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Returns the median over rounds of how many times as fast we are.

    Neighbors in time share what else the machine does, which medians of each alone would not.
    """
    return statistics.median(a / b for a, b in zip(rates(ours), rates(theirs), strict=True))


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 1) for name, value in found.items()}


def text(results: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """Returns the content of speed.md; `profile` is that of the profile.json beside it."""
    notes = "../speed_notes.md" if set(results) <= set(ON_ACCELERATOR) else "speed_notes.md"
    return INTRODUCTION.format(notes=notes) + table(results) + bounds(results, profile) + memory(results)


def table(results: Mapping[str, Any]) -> str:
    """Returns all works of speed.json as Markdown, with the machines they were measured on."""
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
    """Returns a line with the rates of matrix products that goals would take that are not reached."""
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
    """Returns a line on the works in which a peer took less memory at its peak than aejax."""
    more = []
    for entry in results.values():
        peak = {
            name: of["peak_gib"] for name, of in entry["contenders"].items() if not name.startswith(("bare", "aejax, "))
        }
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

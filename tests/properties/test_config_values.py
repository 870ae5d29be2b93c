"""Any value for any key of a config, set in it, written for a sweep, or in a section that names a module."""

from conftest import mlp
from door import JSON, NUMBERS, WORDS, cases, many_cases, try_all
from hypothesis import strategies as st
from ml_collections import ConfigDict

import aejax
from aejax.ablation import plan
from aejax.data import Spec
from aejax.training.task import make_task


def paths(config, above=""):
    """All keys, those of sections too."""
    for key, value in config.items():
        yield above + key
        if isinstance(value, ConfigDict):
            yield from paths(value, f"{above}{key}.")


DEFAULT = mlp()
KEYS = sorted({*paths(DEFAULT), *paths(aejax.config.default())})
NAMED = {
    "encoder": ["mlp", "conv", "resnet", "vit"],
    "bottleneck": ["identity", "dense", "gaussian", "vq", "fsq", "lfq", "gumbel", "topk", "residual", "grouped"],
    "likelihood": ["bernoulli", "gaussian", "squared_error"],
    "adversary": ["factor_vae", "aae", "vae_gan"],
    "objective.bound": ["elbo", "iwae"],
    "corruption": ["gaussian", "masking"],
}
TERMS = st.dictionaries(st.sampled_from(["kl", "l1", "mmd", "orthogonal", "x"]), JSON, max_size=2)
SCHEDULES = st.dictionaries(
    st.sampled_from(["kl", "l1"]),
    st.one_of(
        st.fixed_dictionaries({"name": st.one_of(st.just("linear"), WORDS), "steps": st.one_of(NUMBERS, JSON)}), JSON
    ),
)
VALUES = st.one_of(JSON, NUMBERS, WORDS, TERMS, SCHEDULES, st.tuples(NUMBERS), st.binary(max_size=3), st.just(len))


@st.composite
def modules(draw):
    """A section with a known name and any values for what the module is known to take, or not."""
    section = draw(st.sampled_from(sorted(NAMED)))
    attributes = st.sampled_from(
        ["features", "size", "k", "activation", "levels", "depth", "level", "samples", "variance", "quantizer"]
    )
    name = draw(st.sampled_from(NAMED[section]))
    return section, {"name": name, **draw(st.dictionaries(attributes, st.one_of(NUMBERS, JSON), max_size=2))}


def settings():
    return st.one_of(st.tuples(st.sampled_from(KEYS), VALUES), modules())


def build(config):
    """What follows a check: the model's shapes, its terms and its optimizer. Computes nothing."""
    make_task(config, Spec((6,)), 20)


@many_cases
def test_a_config_is_checked(cases):
    def door(changes):
        config = mlp()
        with config.ignore_type():
            for key, value in changes:
                place = config
                *sections, last = key.split(".")
                for section in sections:
                    place = place[section]
                    if not isinstance(place, ConfigDict):
                        return
                try:
                    place[last] = ConfigDict(value) if isinstance(value, dict) else value
                except (
                    TypeError,
                    ValueError,
                    OverflowError,
                ):  # ml_collections takes no such key, or value in a section just made
                    return
        aejax.config.check(config)
        build(config)

    few = st.lists(settings(), min_size=1, max_size=2)
    try_all(cases, door, changes=few)


@cases
def test_a_config_is_overridden(cases):
    def door(overrides):
        (run,) = plan.plan(DEFAULT, [overrides])
        assert aejax.config.to_json(run.config)
        assert run.name == run.name.replace("/", "")
        build(run.config)

    keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), WORDS, WORDS.map(lambda w: f"encoder.{w}"))
    one = st.one_of(st.tuples(keys, VALUES), modules())
    try_all(cases, door, overrides=st.lists(one, min_size=1, max_size=2).map(dict))


@cases
def test_a_sweep_is_written(cases):
    """Values as text, as after --sweep.optim.lr=."""
    texts = st.one_of(
        st.text(st.sampled_from("0123456789,.()[]{}e-+*/'\"xnN: "), max_size=12),
        WORDS,
        st.sampled_from(
            ["(" * 5000, "-" * 5000 + "1", "9" * 5000, "1,(2,3),[4]", "None", "nan,inf", "{'name': 'mlp'}", "True"]
        ),
    )

    def door(key, text):
        for run in plan.plan(DEFAULT, plan.grid({key: plan.values(text)})):
            build(run.config)

    try_all(cases, door, key=st.sampled_from(KEYS), text=texts)

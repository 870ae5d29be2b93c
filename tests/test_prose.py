"""How code and pages are written: docstrings of functions open with a verb, and the spelling is American."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file.relative_to(ROOT)
    for pattern in ("aejax/**/*.py", "configs/**/*.py", "experiments/**/*.py", "docs/**/*.md", "*.md", ".ci/run")
    for file in ROOT.glob(pattern)
)
BRITISH = re.compile(
    r"\w*(?:normalis|minimis|maximis|optimis|initialis|discretis|quantis|penalis|regularis|summaris|visualis|standardis|"
    r"generalis|recognis|organis|behaviour|colour|favour|grey|centre|modelled|labelled)\w*",
    re.IGNORECASE,
)
# Names of configs' options and of metrics, which users' configs and workdirs hold.
NAMES = re.compile(r"\bnormalisation\b|\bnormalised\b|discretised_logistic|normalised_mutual_information")


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] == "aejax"], ids=str)
def test_docstrings_of_functions_open_with_a_verb(file):
    """In the third person; a property's may be a noun, as an attribute's."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(d) for d in node.decorator_list):
            doc = ast.get_docstring(node) or "Returns"
            assert node.name == "__init__" or re.match(r"(?!This|Losses|Numbers)[A-Z][a-z-]+s\b", doc), doc


@pytest.mark.parametrize("file", FILES, ids=str)
def test_spelling_is_american(file):
    assert not BRITISH.findall(NAMES.sub("", (ROOT / file).read_text()))

"""What MkDocs does with the pages of this folder before it builds the site.

Pages link to files of the repository by their relative path, so that the links work in a checkout, too. The site serves
each linked file below `files/`: Markdown and notebooks as pages, Python and configuration as highlighted pages, all
else as it is. README.md, CHANGELOG.md, CONTRIBUTING.md and examples/ are pages of their own. Formulas become MathML,
which browsers show without a script.
"""

import json
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md")},
    **{f"examples/{path.name}": f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")},
}
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".cff": "yaml", "": "text"}
IMAGE = re.compile(r'<img src="([^"]+)" width="(\d+)" alt="([^"]*)">')  # GitHub scales images by HTML alone
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config):
    """Adds the pages that lie outside of docs/, and every file that a page links to."""
    waiting = [*PAGES, *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    seen = set(waiting)
    for path in waiting:
        if not path.startswith("docs/"):
            files.append(_published(path, config))
        if Path(path).suffix in (".md", ".ipynb"):
            linked = [_target(path, link) for _, link, _ in LINK.findall(_markdown(path))]
            found = [target for target in linked if target and not target.startswith("docs/")]
            waiting += [target for target in dict.fromkeys(found) if target not in seen]
            seen.update(found)
    return files


def on_page_markdown(markdown: str, page, config, files):
    """Points the links of a page to where the site has their targets."""
    uri = page.file.src_uri
    markdown = _with_images(markdown)
    path = next((path for path, place in PAGES.items() if place == uri), None)
    path = path or (uri.removeprefix("files/").removesuffix(".page.md") if uri.startswith("files/") else f"docs/{uri}")

    def moved(match: re.Match) -> str:
        target = _target(path, match[2])
        if target is None:
            folder = (ROOT / Path(path).parent / match[2]).is_dir()
            return match[1] if folder else match[0]  # the site has no page for a folder
        return f"[{match[1]}]({os.path.relpath(_place(target), Path(uri).parent)}{match[3] or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, **_):
    """Turns the formulas of a page into MathML."""
    formula = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
    unescape = lambda text: text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")  # noqa: E731
    display = {"span": "inline", "div": "block"}

    def shown(match: re.Match) -> str:
        formula = convert(unescape(match[2]), display=display[match[1]])
        # The two sides of a norm are one height, and a space follows a logarithm.
        formula = formula.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
        return formula.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em" />')

    return formula.sub(shown, html)


def _with_images(markdown: str) -> str:
    return IMAGE.sub(r'![\3](\1){ width="\2" }', markdown)


def _target(page: str, link: str) -> str | None:
    """Returns the path in the repository of the file that a link of `page` leads to, if it is one."""
    target = os.path.normpath(Path(page).parent / link)
    return target if "://" not in link and (ROOT / target).is_file() else None


def _place(path: str) -> str:
    """Returns where the site's sources have a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path) or f"files/{path}" + ".page.md" * (Path(path).suffix in LANGUAGES)


def _published(path: str, config) -> File:
    if not _place(path).endswith(".md"):
        return File.generated(config, _place(path), abs_src_path=str(ROOT / path))
    content = _markdown(path)
    if path not in PAGES:
        content = f"---\nsearch: {{exclude: true}}\n---\n\n{content}"
    return File.generated(config, _place(path), content=content)


def _markdown(path: str) -> str:
    """Returns a file as Markdown: a notebook cell by cell, code as a block."""
    text = (ROOT / path).read_text()
    if path.endswith(".md"):
        return _with_images(text)
    if path.endswith(".ipynb"):
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)
    return f"# {path}\n\n```{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n```"

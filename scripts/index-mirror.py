#!/usr/bin/env python3
"""index-mirror.py FILES DIR: moves the wheels and sdists of FILES into DIR as a simple index (PEP 503).

Links are relative and carry the file's hash, so DIR works from any place: file:///tmp/pypi in a sandbox, or a web server.
It does not use dropcloth's own index writer: the tests need a mirror whose form dropcloth did not choose.
"""

import hashlib
import html
import re
import shutil
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

SDIST_ENDINGS = (".tar.gz", ".zip")
PAGE = """<!DOCTYPE html>
<html>
  <head>
    <meta name="pypi:repository-version" content="1.0">
    <title>{title}</title>
  </head>
  <body>
{lines}
  </body>
</html>
"""


def normalized(name):
    """PEP 503: the one spelling that pip asks an index for."""
    return re.sub(r"[-_.]+", "-", name).lower()


def project_of(file):
    if file.name.endswith(".whl"):
        return normalized(file.name.split("-")[0])
    for ending in SDIST_ENDINGS:
        if file.name.endswith(ending):
            # From the right: an old sdist's name may itself hold a hyphen, its version may not.
            return normalized(file.name.removesuffix(ending).rsplit("-", 1)[0])
    sys.exit(f"{file} is neither a wheel nor an sdist")


def metadata_text(file):
    if file.name.endswith(".tar.gz"):
        with tarfile.open(file) as archive:
            # The shortest path is the sdist's own; deeper ones are egg-info and test data.
            found = [m for m in archive.getmembers() if m.name.endswith("/PKG-INFO")]
            return archive.extractfile(min(found, key=lambda m: m.name.count("/"))).read() if found else b""
    ending = ".dist-info/METADATA" if file.name.endswith(".whl") else "/PKG-INFO"
    with zipfile.ZipFile(file) as archive:
        found = [name for name in archive.namelist() if name.endswith(ending)]
        return archive.read(min(found, key=lambda name: name.count("/"))) if found else b""


def link(file, href):
    """pip skips a file whose data-requires-python leaves its own Python out, before it downloads anything."""
    requires = HeaderParser().parsestr(metadata_text(file).decode("utf-8", "replace")).get("Requires-Python")
    attribute = f' data-requires-python="{html.escape(requires)}"' if requires else ""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f'    <a href="{quote(href)}#sha256={digest}"{attribute}>{html.escape(file.name)}</a><br>'


def write_page(path, title, lines):
    path.write_text(PAGE.format(title=html.escape(title), lines="\n".join(lines)), encoding="utf-8")


def main(files, into):
    projects = {}
    for file in sorted(files.iterdir()):
        projects.setdefault(project_of(file), []).append(file)

    flat = []
    for project, members in sorted(projects.items()):
        folder = into / project
        folder.mkdir(parents=True)
        members = [Path(shutil.move(file, folder / file.name)) for file in members]
        write_page(folder / "index.html", f"Links for {project}", [link(file, file.name) for file in members])
        flat += [link(file, f"{project}/{file.name}") for file in members]
    write_page(into / "index.html", "Simple index", [f'    <a href="{name}/">{name}</a><br>' for name in sorted(projects)])
    write_page(into / "links.html", "All files", flat)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""The scripts that the site and the slides need in a browser, as local copies: nothing is loaded from elsewhere.

They come from the npm registry through its own client, once, each at one version whose bytes are known: an archive that
hashes otherwise is refused. They are kept in ``build/assets``, so that a second build needs no network.
"""

import argparse
import base64
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tools.notebooks import ROOT

KEPT = ROOT / "build" / "assets"

PINNED = {
    "mathjax": (
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        r"LICENSE|es5/((startup|core|input/tex|input/tex/extensions/.*|a11y/assistive-mml|output/chtml|output/chtml/fonts/tex)"
        r"\.js|output/chtml/fonts/woff-v2/.*\.woff)",
    ),
    "reveal.js": (
        "5.2.1",
        "r7//6mIM5p34hFiDMvYfXgyjXqGRta+/psd9YtytsgRlrpRzFv4RbH76TXd2qD+7ZPZEbpBDhdRhJaFgfQ7zNQ==",
        r"LICENSE|dist/(reveal\.js|reveal\.css|reset\.css)|plugin/notes/notes\.js",
    ),
    "axe-core": (
        "4.14.1",
        "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        r"LICENSE|axe\.min\.js",
    ),
}
"""Name: the version, the SHA-512 of its archive, and which of its files are taken."""


def asset(name: str) -> Path:
    """The folder with a package's files, fetched if it is not here yet.

    Raises:
        SystemExit: without npm, without a network at the first time, or if the archive is another than it was.
    """
    version, digest, files = PINNED[name]
    folder = KEPT / f"{name}-{version}"
    if not folder.exists():
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        unpack(fetch(name, version), digest, files, half, name)
        half.rename(folder)
    return folder


def fetch(name: str, version: str) -> bytes:
    """The archive of a package, from the registry that npm is set to."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(
            f"{name} {version} is fetched with npm, once, and there is none here. It comes with Node.js (on Debian and "
            "Ubuntu: apt install npm); everything else of the course does without."
        )
    KEPT.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        [npm, "pack", "--silent", f"{name}@{version}", "--pack-destination", str(KEPT)],
        cwd=KEPT,
        capture_output=True,
        text=True,
        check=False,
    )
    archive = KEPT / f"{name}-{version}.tgz"
    if packed.returncode or not archive.exists():
        raise SystemExit(f"npm could not bring {name} {version}, which a first build needs:\n{packed.stderr.strip()}")
    content = archive.read_bytes()
    archive.unlink()
    return content


def unpack(archive: bytes, digest: str, files: str, folder: Path, name: str) -> None:
    """Lay the files whose names match into a folder, if the archive has the digest that was written down."""
    found = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != digest:
        raise SystemExit(f"The archive of {name} is not the one that was pinned: its SHA-512 is {found}, not {digest}.")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        for member in packed.getmembers():
            inside = member.name.removeprefix("package/")
            content = packed.extractfile(member) if member.isfile() and re.fullmatch(files, inside) else None
            if content is not None and ".." not in Path(inside).parts:
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


def main() -> None:
    """Fetch what is named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PINNED, []], help="all if none is named")
    for name in parser.parse_args().names or PINNED:
        print(f"{name}: {asset(name).relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Bring the course up to date, and lose nothing of a learner's.

What running a lecture wrote into it, outputs and what Jupyter notes by itself, is put back. A lecture whose text was
edited is kept in work/kept/ before the new one takes its place. Then the new commits come in, by fast-forward alone.
Where that cannot be, it says why and what to do, and nothing is touched. `make update` then brings the environment and
the files of checks in work/ up to date and says which exercises changed.

It runs with the standard library alone: the packages may be what is to be updated.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path("work") / "kept"
COURSE = ("lectures/", "exercises/")
"""What a learner opens. Of other files that were changed, it is not for us to say where they should go."""

# What Jupyter and its relatives note in a notebook when it is opened, run or folded, without anybody writing anything.
CELL_NOTES = {"ExecuteTime", "collapsed", "execution", "jupyter", "scrolled", "trusted", "vscode"}
NOTEBOOK_NOTES = {"kernelspec", "language_info", "signature", "vscode", "widgets"}

UNDER_WAY = {
    "MERGE_HEAD": ("merge", "git merge"),
    "rebase-merge": ("rebase", "git rebase"),
    "rebase-apply": ("rebase", "git rebase"),
    "CHERRY_PICK_HEAD": ("cherry-pick", "git cherry-pick"),
    "REVERT_HEAD": ("revert", "git revert"),
}


class CannotUpdate(Exception):
    """Why no new commits come in, and what the learner can do."""


class NoCourse(CannotUpdate):
    """There is nothing to update from."""


class UnderWay(CannotUpdate):
    """Something was begun and not ended: files may be half-made."""


# Git.


def ask(*command: str) -> subprocess.CompletedProcess[bytes]:
    """What git answers."""
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, check=False)


def git(*command: str) -> str:
    """What git says to a command that must work.

    Raises:
        CannotUpdate: with git's own words, if it does not.
    """
    done = ask(*command)
    if done.returncode:
        raise CannotUpdate(f"git {command[0]} did not work: {_words(done)}")
    return os.fsdecode(done.stdout)


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = os.fsdecode(done.stderr or done.stdout).strip().splitlines()
    return "\n  ".join(lines) or "it says nothing"


def _paths(*command: str) -> list[str]:
    return [path for path in git(*command).split("\0") if path]


# What a learner wrote, and what Jupyter did.


def written(data: bytes) -> Any:
    """What people write in a notebook: texts, their order, tags; without outputs, empty cells and Jupyter's own notes.

    None for what is no notebook.
    """
    try:
        notebook = json.loads(data)
        cells = [
            {
                "kind": cell["cell_type"],
                "text": _text(cell["source"]),
                "pictures": cell.get("attachments") or {},
                "marks": {key: value for key, value in cell.get("metadata", {}).items() if key not in CELL_NOTES},
            }
            for cell in notebook["cells"]
        ]
        marks = {key: value for key, value in notebook.get("metadata", {}).items() if key not in NOTEBOOK_NOTES}
        if isinstance(marks.get("dynlib"), dict):  # which code the outputs are of
            marks["dynlib"] = {key: value for key, value in marks["dynlib"].items() if key != "executed"}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return {"cells": [cell for cell in cells if cell["text"].strip()], "marks": marks}


def _text(source: str | list[str]) -> str:
    return ("".join(source) if isinstance(source, list) else source).replace("\r\n", "\n")


def of_the_learner(path: str) -> list[bytes]:
    """The versions of a changed file, in the folder and noted for a commit, that hold something a learner wrote."""
    before = ask("show", f"HEAD:{path}").stdout
    here, noted = ROOT / path, ask("show", f":{path}")
    versions = [here.read_bytes()] if here.is_file() else [os.fsencode(os.readlink(here))] if here.is_symlink() else []
    if noted.returncode == 0 and noted.stdout not in versions:
        versions.append(noted.stdout)
    course = written(before) if path.endswith(".ipynb") else None
    return [data for data in versions if data != before and (course is None or written(data) != course)]


def keep(path: str, data: bytes) -> Path:
    """Put a copy into work/kept/, under a name that is free; where it is."""
    number, place = 1, ROOT / KEPT / path
    while place.exists() and place.read_bytes() != data:
        number += 1
        place = (ROOT / KEPT / path).with_stem(f"{Path(path).stem}-{number}")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            file.write(data)
    return place.relative_to(ROOT)


# The steps.


def look() -> None:
    """See to it that this is a clone in which commits can come in.

    Raises:
        CannotUpdate: if it is not.
    """
    if not shutil.which("git"):
        raise NoCourse("There is no git here: install it, then `make update`.")
    top = ask("rev-parse", "--show-toplevel")
    if top.returncode:
        raise NoCourse(
            f"This folder is no clone ({_words(top)}). A clone can be updated: `git clone` the course to another "
            "place, and copy your work/ there."
        )
    if Path(os.fsdecode(top.stdout).rstrip("\n")).resolve() != ROOT:
        raise NoCourse("The course is a part of a larger repository here: update that one, then `make lab`.")
    for name, (what, command) in UNDER_WAY.items():
        if (ROOT / git("rev-parse", "--git-path", name).strip()).exists():
            raise UnderWay(
                f"A {what} is under way. Finish it (`{command} --continue`) or take it back (`{command} --abort`), "
                "then `make update`."
            )
    if unmerged := sorted({line.split("\t")[1] for line in _paths("ls-files", "-u", "-z")}):
        raise UnderWay(f"{_some(unmerged)} holds a conflict: settle it and commit, then `make update`.")


def follow() -> tuple[str, str]:
    """The branch that this one follows, such as "origin/main", and a sentence if it could not be asked for news.

    Raises:
        CannotUpdate: if there is none; says how to come to one.
    """
    head = ask("symbolic-ref", "-q", "--short", "HEAD")
    remotes = git("remote").split()
    main = ask("symbolic-ref", "-q", "--short", "refs/remotes/origin/HEAD").stdout.decode().strip() or "origin/main"
    there = main.split("/", 1)[1]
    if head.returncode:
        raise CannotUpdate(
            f"You are on no branch, but on the commit {git('rev-parse', '--short', 'HEAD').strip()}: "
            f"`git switch {there}`, then `make update`."
        )
    branch = os.fsdecode(head.stdout).strip()
    if not remotes:
        raise NoCourse(
            "This clone has no remote to ask for news: `git remote add origin <the address of the course>`, "
            f"`git fetch origin`, `git branch --set-upstream-to=origin/{branch}`, then `make update`."
        )
    remote = ask("config", f"branch.{branch}.remote").stdout.decode().strip()
    if not remote:
        if ask("rev-parse", "-q", "--verify", f"refs/remotes/origin/{branch}").returncode == 0:
            advice = f"`git branch --set-upstream-to=origin/{branch}`, then `make update`."
        else:
            advice = f"`git switch {there}`, `make update`, `git switch {branch}`, `git merge {there}`."
        raise CannotUpdate(f"Your branch '{branch}' follows none of the course's: {advice}")
    fetched = subprocess.run(
        ["git", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30", "fetch", "-q", remote],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        check=False,
    )
    upstream = ask("rev-parse", "-q", "--abbrev-ref", f"{branch}@{{upstream}}")
    if upstream.returncode:
        why = f" ({_words(fetched)})" if fetched.returncode else ""
        raise CannotUpdate(
            f"The branch that '{branch}' follows is not there{why}: `git switch {there}`, then `make update`."
        )
    news = f"Not asked for news, as it seems without network ({_words(fetched)})." if fetched.returncode else ""
    return os.fsdecode(upstream.stdout).strip(), news


def pull() -> None:
    """Put Jupyter's writing back, keep the learner's, and bring in the new commits.

    Raises:
        CannotUpdate: if that cannot be without losing something.
    """
    look()
    upstream, without = follow()
    if without:
        print(without)
    mine, theirs = map(int, git("rev-list", "--left-right", "--count", f"HEAD...{upstream}").split())
    if not theirs:
        own = f" and {_count(mine, 'commit')} of your own" if mine else ""
        print(f"Nothing new: you have all of {upstream}{own}.")
        return
    comes = set(_paths("diff", "--name-only", "--no-renames", "-z", f"HEAD...{upstream}"))
    tracked = set(_paths("ls-tree", "-r", "--name-only", "-z", "HEAD"))
    touched = set(_paths("diff", "--name-only", "--no-renames", "-z", "HEAD"))
    touched |= set(_paths("diff", "--cached", "--name-only", "--no-renames", "-z", "HEAD"))
    theirs_only = {path for path in touched & tracked if not of_the_learner(path)}
    plain = {path for path in theirs_only if path.startswith(COURSE) or path.endswith(".ipynb")}
    edited = {path for path in (touched & tracked & comes) - plain if path.startswith(COURSE)}
    stuck = sorted((touched & comes) - plain - edited)
    strange = sorted(path for path in comes - tracked - touched if os.path.lexists(ROOT / path))
    if mine:
        _put_back(plain)
        raise CannotUpdate(
            f"Your branch has {_count(mine, 'commit')} of its own, and {upstream} {_count(theirs, 'new one')}. "
            f"Either follow the course, and keep yours on a branch: `git branch mine && git reset --keep {upstream}`. "
            f"Or join both: `git merge {upstream}` (`git merge --abort` takes that back)."
        )
    if stuck:
        raise CannotUpdate(
            f"You changed {_some(stuck)}, and so did the course. Put yours aside with `git stash`, then "
            "`make update`, then `git stash pop` to get it back."
        )
    strange = [path for path in strange if git("ls-tree", upstream, "--", path)]
    if strange:
        raise CannotUpdate(
            f"The course now has {_some(strange)}, and you have files of that name: give yours another, then "
            "`make update`."
        )
    kept = {path: [keep(path, data) for data in of_the_learner(path)] for path in sorted(edited)}
    for path, places in kept.items():
        for place in places:
            print(f"Your changes to {path} are kept: {place.as_posix()}")
    _put_back(plain | edited)
    if names := sorted({Path(path).stem for path in plain}):
        print(f"Put back, since running them wrote only outputs: {_some(names, 6)}.")
    before = git("rev-parse", "--short", "HEAD").strip()
    git("-c", "merge.autoStash=false", "merge", "-q", "--ff-only", upstream)
    after = git("rev-parse", "--short", "HEAD").strip()
    print(f"Updated: {_count(theirs, 'new commit')}, from {before} to {after}. What is new: CHANGELOG.md")
    if any(path.startswith("lectures/") for path in comes | plain):
        print("A lecture that is open in JupyterLab: File > Reload Notebook from Disk.")


def _put_back(paths: Iterable[str]) -> None:
    if paths := sorted(paths):
        git("checkout", "-q", "HEAD", "--", *paths)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def refresh(make: str) -> int:
    """The environment, where make builds it, and the files of checks in work/; by the files that came in just now."""
    if make:
        return subprocess.run([make, "-s", "--no-print-directory", "refresh"], cwd=ROOT, check=False).returncode
    print("If packages are missing below: pip install -c constraints.txt -e .[course]")
    return subprocess.run([sys.executable, "-m", "tools.work"], cwd=ROOT, check=False).returncode


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", default="", help="the make that builds the environment; without it none is built")
    make, failed = parser.parse_args().make, 0
    try:
        pull()
    except UnderWay as why:
        sys.exit(f"Not updated. {why}")
    except CannotUpdate as why:
        print(f"Not updated. {why}")
        failed = 0 if isinstance(why, NoCourse) else 1
    except OSError as error:
        print(f"Not updated. {error.filename or 'A file'}: {error.strerror}.")
        failed = 1
    sys.stdout.flush()
    sys.exit(refresh(make) or failed)


if __name__ == "__main__":
    main()

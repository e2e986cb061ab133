"""`make update` brings in what is new and loses nothing of a learner's: tried on real repositories."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.notebooks import ROOT, lectures
from tools.update import KEPT, written

NAMES = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
MAKEFILE = "refresh:\n\t@echo refreshed by the files of $$(cat version)\n"


def git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *NAMES, *command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, **files: str) -> None:
    """Write files, whose names have __ for / and _DOT_ for a point before the ending, and commit them."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "more")


def lecture(*texts: str) -> str:
    cells = [new_markdown_cell("# Title", id="title")]
    cells += [new_code_cell(text, id=f"cell-{number}") for number, text in enumerate(texts)]
    marks = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.writes(new_notebook(cells=cells, metadata={"kernelspec": marks, "dynlib": {"executed": "1"}}))


def run(text: str) -> str:
    """What Jupyter leaves of a notebook that was opened, run to its end and folded here and there."""
    notebook = nbformat.reads(text, 4)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs = [new_output("stream", text="out\n")]
            cell.execution_count = number
            cell.metadata |= {
                "execution": {"iopub.busy": "now"},
                "collapsed": False,
                "jupyter": {"source_hidden": False},
            }
    notebook.cells.append(new_code_cell("\n"))
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    notebook.metadata.language_info = {"name": "python", "version": "3.12.1"}
    notebook.metadata.widgets = {"state": {}}
    return json.dumps(notebook)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """The course as its teachers have it."""
    folder = tmp_path / "course"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "update.py", folder / "tools" / "update.py")
    git(tmp_path, "init", "-qb", "main", "course")
    commit(
        folder,
        lectures__one_DOT_ipynb=lecture("a = 1", "b = 2"),
        lectures__two_DOT_ipynb=lecture("c = 3"),
        exercises__one_DOT_ipynb=lecture("d = 4"),
        README_DOT_md="read me\n",
        Makefile=MAKEFILE,
        version="one",
        _DOT_gitignore="work/\n",
    )
    return folder


@pytest.fixture
def clone(course: Path, tmp_path: Path) -> Path:
    """The course as a learner has it, with something in work/."""
    git(tmp_path, "clone", "-q", str(course), "clone, with a space")
    folder = tmp_path / "clone, with a space"
    (folder / "work").mkdir()
    (folder / "work" / "one.ipynb").write_text("the learner's")
    return folder


def release(course: Path) -> None:
    """Something new in each of the files."""
    commit(
        course,
        lectures__one_DOT_ipynb=lecture("a = 1", "b = 20"),
        lectures__two_DOT_ipynb=lecture("c = 30"),
        exercises__one_DOT_ipynb=lecture("d = 40"),
        README_DOT_md="read me again\n",
        version="two",
    )


def update(clone: Path, *, fails: bool = False) -> str:
    """What the update says; it must never hide work or end in a traceback."""
    command = [sys.executable, "-E", "-s", "tools/update.py", "--make", "make"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == (1 if fails else 0), done.stdout + done.stderr
    assert (clone / "work" / "one.ipynb").read_text() == "the learner's"
    return done.stdout + done.stderr


def is_new(clone: Path, course: Path) -> bool:
    return git(clone, "rev-parse", "HEAD") == git(course, "rev-parse", "main")


def kept(clone: Path) -> dict[str, str]:
    folder = clone / KEPT
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def change(clone: Path, name: str, edit: Callable[[str], str]) -> str:
    path = clone / name
    path.write_text(edit(path.read_text()))
    return path.read_text()


def test_opening_and_running_lectures_does_not_stand_in_the_way(course: Path, clone: Path) -> None:
    for name in ("lectures/one.ipynb", "lectures/two.ipynb", "exercises/one.ipynb"):
        change(clone, name, run)
    git(clone, "add", "lectures/two.ipynb")
    release(course)
    told = update(clone)
    assert is_new(clone, course)
    assert git(clone, "status", "--porcelain") == ""
    assert kept(clone) == {}
    assert "Put back, since running them wrote only outputs: one, two." in told
    assert "Updated: 1 new commit, from" in told
    assert "refreshed by the files of two" in told, "by the files that came in"
    assert "Reload Notebook from Disk" in told
    assert len(told.splitlines()) == 4


def test_where_nothing_is_new_nothing_is_touched(clone: Path) -> None:
    ran = change(clone, "lectures/one.ipynb", run)
    told = update(clone)
    assert told.splitlines() == ["Nothing new: you have all of origin/main.", "refreshed by the files of one"]
    assert (clone / "lectures" / "one.ipynb").read_text() == ran


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("a = 1", "a = 1  # so that is it"),
        lambda text: run(text.replace("a = 1", "a = 2")),
        lambda text: text.replace("# Title", "# Title\\n\\nMy notes."),
        lambda text: nbformat.writes(_with(text, lambda cells: cells.append(new_code_cell("mine = 1")))),
        lambda text: nbformat.writes(_with(text, lambda cells: cells.pop())),
        lambda text: nbformat.writes(_with(text, lambda cells: cells.reverse())),
        lambda text: nbformat.writes(_with(text, lambda cells: cells[1].metadata.update(tags=["mine"]))),
        lambda text: text[: len(text) // 2],
        lambda text: "",
    ],
    ids=["code", "code and run", "prose", "a cell", "a cell less", "order", "a tag", "cut off", "empty"],
)
def test_what_was_written_into_a_lecture_is_kept(course: Path, clone: Path, edit: Callable[[str], str]) -> None:
    mine = change(clone, "lectures/one.ipynb", edit)
    change(clone, "lectures/two.ipynb", run)
    release(course)
    told = update(clone)
    assert is_new(clone, course)
    assert git(clone, "status", "--porcelain") == ""
    assert kept(clone) == {"lectures/one.ipynb": mine}
    assert "Your changes to lectures/one.ipynb are kept: work/kept/lectures/one.ipynb" in told


def _with(text: str, do: Callable[[list[nbformat.NotebookNode]], object]) -> nbformat.NotebookNode:
    notebook = nbformat.reads(text, 4)
    do(notebook.cells)
    return notebook


def test_what_is_kept_is_never_written_over(course: Path, clone: Path) -> None:
    mine = list[str]()
    for number in (3, 4, 5):
        mine.append(change(clone, "lectures/one.ipynb", lambda text: text.replace("# Title", f"# Mine {number}")))  # noqa: B023
        commit(course, lectures__one_DOT_ipynb=lecture(f"a = {number}"))
        update(clone)
    assert list(kept(clone).values()) == mine
    assert set(kept(clone)) == {"lectures/one.ipynb", "lectures/one-2.ipynb", "lectures/one-3.ipynb"}


def test_what_was_noted_for_a_commit_and_then_changed_is_kept_too(course: Path, clone: Path) -> None:
    noted = change(clone, "lectures/one.ipynb", lambda text: text.replace("a = 1", "a = 7"))
    git(clone, "add", "lectures/one.ipynb")
    here = change(clone, "lectures/one.ipynb", lambda text: text.replace("a = 7", "a = 8"))
    release(course)
    update(clone)
    assert is_new(clone, course)
    assert sorted(kept(clone).values()) == sorted([noted, here])


def test_a_lecture_that_was_edited_and_is_not_new_stays_where_it_is(course: Path, clone: Path) -> None:
    mine = change(clone, "lectures/one.ipynb", lambda text: text.replace("a = 1", "a = 7"))
    (clone / "README.md").write_text("my notes\n")
    commit(course, lectures__two_DOT_ipynb=lecture("c = 30"))
    update(clone)
    assert is_new(clone, course)
    assert (clone / "lectures" / "one.ipynb").read_text() == mine
    assert (clone / "README.md").read_text() == "my notes\n"
    assert kept(clone) == {}


def test_a_lecture_that_was_deleted_or_renamed_comes_back(course: Path, clone: Path) -> None:
    (clone / "lectures" / "one.ipynb").unlink()
    (clone / "lectures" / "two.ipynb").rename(clone / "lectures" / "mine.ipynb")
    release(course)
    update(clone)
    assert is_new(clone, course)
    assert git(clone, "status", "--porcelain") == "?? lectures/mine.ipynb"
    assert kept(clone) == {}


def state(clone: Path) -> dict[str, str]:
    """All files and all of git's state that an update must leave alone."""
    files = {str(file): file.read_text() for file in clone.rglob("*.*") if file.is_file() and ".git" not in file.parts}
    return files | {"head": git(clone, "rev-parse", "HEAD"), "index": git(clone, "ls-files", "-s")}


def test_changes_elsewhere_that_are_in_the_way_are_named_and_untouched(course: Path, clone: Path) -> None:
    (clone / "README.md").write_text("my notes\n")
    change(clone, "lectures/one.ipynb", lambda text: run(text.replace("a = 1", "a = 7")))
    change(clone, "lectures/two.ipynb", run)
    release(course)
    before = state(clone)
    told = update(clone, fails=True)
    assert state(clone) == before
    assert "Not updated. You changed README.md, and so did the course." in told
    assert "refreshed" in told, "what can be done is done"
    git(clone, "stash", "push", "-q", "README.md")
    update(clone)
    assert is_new(clone, course)


def test_the_learners_file_under_a_name_that_the_course_takes_is_named(course: Path, clone: Path) -> None:
    (clone / "lectures" / "three.ipynb").write_text("mine")
    (clone / "work" / "all.txt").write_text("mine")
    commit(course, lectures__three_DOT_ipynb=lecture("e = 5"))
    before = state(clone)
    assert "The course now has lectures/three.ipynb, and you have files" in update(clone, fails=True)
    assert state(clone) == before
    (clone / "lectures" / "three.ipynb").rename(clone / "lectures" / "mine.ipynb")
    update(clone)
    assert is_new(clone, course)


def test_commits_of_ones_own_stay_where_nothing_is_new(course: Path, clone: Path) -> None:
    commit(clone, notes_DOT_md="mine")
    before = state(clone)
    assert "you have all of origin/main and 1 commit of your own" in update(clone)
    assert state(clone) == before


@pytest.mark.parametrize("way", [0, 1])
def test_a_branch_that_went_its_own_way_gets_two_commands_that_work(course: Path, clone: Path, way: int) -> None:
    commit(clone, notes_DOT_md="mine")
    own = git(clone, "rev-parse", "HEAD")
    change(clone, "lectures/one.ipynb", run)
    release(course)
    told = update(clone, fails=True)
    assert git(clone, "rev-parse", "HEAD") == own
    assert "Your branch has 1 commit of its own, and origin/main 1 new one." in told
    command = re.findall(r"`(git [^`]+)`", told)[way]
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(
        command, shell=True, cwd=clone, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"} | names
    )
    assert "c = 30" in (clone / "lectures" / "two.ipynb").read_text()
    assert own in git(clone, "log", "--all", "--format=%H").splitlines()
    assert "Nothing new" in update(clone)


def test_from_a_commit_without_a_branch_it_says_how_to_come_back(course: Path, clone: Path) -> None:
    git(clone, "checkout", "-q", "--detach")
    release(course)
    before = state(clone)
    told = update(clone, fails=True)
    assert state(clone) == before
    assert "You are on no branch" in told
    assert "`git switch main`, then `make update`" in told
    git(clone, "switch", "-q", "main")
    update(clone)
    assert is_new(clone, course)


def test_a_branch_of_ones_own_is_told_how_to_follow(course: Path, clone: Path) -> None:
    git(clone, "switch", "-qc", "mine")
    release(course)
    told = update(clone, fails=True)
    commands = re.findall(r"`([^`]+)`", told)
    assert commands == ["git switch main", "make update", "git switch mine", "git merge main"]
    for command in commands:
        update(clone) if command == "make update" else git(clone, *command.split()[1:])
    assert is_new(clone, course)


def test_a_branch_that_is_gone_upstream_is_named(course: Path, clone: Path) -> None:
    git(course, "branch", "old")
    git(clone, "fetch", "-q")
    git(clone, "switch", "-q", "old")
    git(course, "branch", "-D", "old")
    git(clone, "remote", "prune", "origin")
    told = update(clone, fails=True)
    assert "`git switch main`, then `make update`" in told


def test_a_merge_that_stopped_in_conflicts_is_left_alone(course: Path, clone: Path) -> None:
    commit(clone, README_DOT_md="mine\n")
    release(course)
    git(clone, "fetch", "-q")
    subprocess.run(["git", *NAMES, "merge", "-q", "origin/main"], cwd=clone, capture_output=True, check=False)
    before = state(clone)
    told = update(clone, fails=True)
    assert state(clone) == before
    assert "A merge is under way. Finish it (`git merge --continue`) or take it back (`git merge --abort`)" in told
    assert "refreshed" not in told


def test_a_stash_that_came_back_in_conflict_is_left_alone(course: Path, clone: Path) -> None:
    (clone / "README.md").write_text("my notes\n")
    release(course)
    git(clone, "stash", "-q")
    update(clone)
    subprocess.run(["git", "stash", "pop", "-q"], cwd=clone, capture_output=True, check=False)
    commit(course, version="three")
    before = state(clone)
    assert "README.md holds a conflict: settle it and commit" in update(clone, fails=True)
    assert state(clone) == before


def test_without_a_network_the_rest_is_done(course: Path, clone: Path) -> None:
    ran = change(clone, "lectures/one.ipynb", run)
    course.rename(course.with_name("out of reach"))
    told = update(clone)
    assert "Not asked for news, as it seems without network (" in told
    assert "refreshed by the files of one" in told
    assert (clone / "lectures" / "one.ipynb").read_text() == ran


def test_what_was_fetched_before_the_network_went_comes_in(course: Path, clone: Path) -> None:
    release(course)
    git(clone, "fetch", "-q")
    course.rename(course.with_name("out of reach"))
    assert "Updated: 1 new commit" in update(clone)
    assert "c = 30" in (clone / "lectures" / "two.ipynb").read_text()


def test_without_a_remote_and_without_a_repository_the_rest_is_done(clone: Path) -> None:
    git(clone, "remote", "remove", "origin")
    told = update(clone)
    assert "Not updated. This clone has no remote to ask for news" in told
    assert "refreshed by the files of one" in told
    shutil.rmtree(clone / ".git")
    told = update(clone)
    assert "Not updated. This folder is no clone" in told
    assert "refreshed by the files of one" in told


def test_a_shallow_clone_is_updated(course: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{course}", "shallow")
    clone = tmp_path / "shallow"
    (clone / "work").mkdir()
    (clone / "work" / "one.ipynb").write_text("the learner's")
    change(clone, "lectures/one.ipynb", run)
    release(course)
    update(clone)
    assert is_new(clone, course)


def test_it_can_be_called_from_any_folder(course: Path, clone: Path) -> None:
    release(course)
    subprocess.run(
        [sys.executable, str(clone / "tools" / "update.py"), "--make", "make"], cwd="/", check=True, timeout=60
    )
    assert is_new(clone, course)


@pytest.mark.parametrize("path", lectures(), ids=lambda path: path.stem)
def test_running_a_lecture_of_the_course_is_no_edit(path: Path) -> None:
    text = path.read_text()
    assert written(text.encode()) is not None
    assert written(run(text).encode()) == written(text.encode())
    edited = text.replace("# What to remember", "# What I remember").replace("## ", "## My ", 1)
    assert written(edited.encode()) != written(text.encode())

"""Find submissions: as nbgrader lays them out, in the zips that ``exports`` reads, or as one notebook.

Nothing is unpacked, no link is followed, and no more is read than a notebook may be large. What cannot be read becomes
a sentence, and never a grade.
"""

import csv
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from tools.grade import exports
from tools.grade.exports import LARGEST, MIB, NOTEBOOKS, OLD, File, Unreadable, plain, safe_name
from tools.grade.rules import moment

LARGEST_ZIP = 2048 * MIB
"""Bytes of the notebooks that are kept of one zip; where they have more, the largest are left out."""
DEEP = 20
"""Folders within each other beyond which nothing is looked for."""
EXCHANGE = {"timestamp.txt", "submission_secret.txt"}
"""What nbgrader's exchange lays beside a submission."""


@dataclass
class Submission:
    """One student's notebook of one unit.

    Attributes:
        student: as nbgrader calls them.
        unit: of the course.
        raw: the notebook's bytes, or nothing if it could not be read.
        why_not: why it could not be read, or nothing.
        notes: what else was found around it, and changes nothing.
        late: the system that it comes from marked it as late.
        when: what stands in nbgrader's timestamp.txt, or nothing.
        origin: "nbgrader", "canvas", "moodle", "zip" or "notebook".
        number: the student's number in Canvas, or the participant's in Moodle.
        name: as that system writes it.
    """

    student: str
    unit: str
    raw: bytes = b""
    why_not: str = ""
    notes: list[str] = field(default_factory=list)
    late: bool = False
    when: str = ""
    origin: str = "nbgrader"
    number: str = ""
    name: str = ""


def gather(course: Path, units: Sequence[str]) -> tuple[list[Submission], list[str]]:
    """All submissions to these units, by unit and student, and sentences about what is no submission.

    Args:
        course: a folder with ``submitted/`` or with zips in it, a zip, or a notebook.
        units: names of units.

    Raises:
        ValueError: if there is nothing that could hold submissions.
    """
    found: list[Submission] = []
    told: list[str] = []
    if course.suffix.lower() == ".ipynb" and not course.is_dir():
        name = safe_name(course.stem) or "student"
        found.append(_chosen(Submission(name, _only(units), origin="notebook"), [_from_disk(course)]))
        return found, told
    if course.suffix.lower() == ".zip" and not course.is_dir():
        zips = [course]
    elif course.is_dir():
        zips = sorted(path for place in (course, course / "submitted") for path in _inside(place, told, ".zip"))
        if (course / "submitted").is_dir():
            found += _nbgrader(course / "submitted", units, told)
    else:
        raise ValueError(f"there is no folder, zip or notebook {course}")
    for path in zips:
        found += _fitting(_exported(path, units, told))
    if not found and not told and not (course / "submitted").is_dir() and not zips:
        raise ValueError(f"{course} has neither submitted/ nor a zip in it: collect the submissions first")
    return _once(_known(found, course, told), told), told


def _only(units: Sequence[str]) -> str:
    if len(units) != 1:
        raise ValueError("name the one unit that the notebook belongs to")
    return units[0]


def _inside(folder: Path, told: list[str], suffix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == suffix]
    told += [f"{path.name}: a link, not followed" for path in found if path.is_symlink()]
    return [path for path in found if not path.is_symlink() and path.is_file()]


# As nbgrader lays them out


def _nbgrader(submitted: Path, units: Sequence[str], told: list[str]) -> Iterator[Submission]:
    for student, home in _homes(submitted, told).items():
        for unit in units:
            folder = home / unit
            submission = Submission(student, unit)
            if student != home.name:
                submission.notes.append(f"the student's folder is called {plain(home.name)}")
            if folder.is_symlink():
                yield replace(submission, why_not="the folder is a link, which is not followed")
            elif folder.is_dir():
                submission.when = _when(folder, submission.notes)
                files = list(_files(folder, submission.notes))
                yield _chosen(submission, _out_of_zips(files, submission.notes))
            elif os.path.lexists(folder):
                yield replace(submission, why_not="there is a file where the folder should be")


def _homes(submitted: Path, told: list[str]) -> dict[str, Path]:
    """The folders of students, by the names under which they are graded."""
    homes: dict[str, Path] = {}
    # a name that can stay as it is comes before one that only becomes the same
    for home in sorted(submitted.iterdir(), key=lambda home: (safe_name(home.name) != home.name, home)):
        student, shown = safe_name(home.name), f"submitted/{plain(home.name)}"
        if home.suffix.lower() == ".zip" or home.name.startswith("."):
            continue
        if home.is_symlink() or not home.is_dir():
            told.append(f"{shown}: no folder of a student's, left alone")
        elif not student:
            told.append(f"{shown}: no student can have this name")
        elif student in homes:
            told.append(f"{shown}: not taken, its name would be that of submitted/{plain(homes[student].name)}")
        else:
            homes[student] = home
    return homes


def _when(folder: Path, notes: list[str]) -> str:
    """What stands in timestamp.txt, with a note if no time can be read in it."""
    path = folder / "timestamp.txt"
    if not os.path.lexists(path):
        return ""
    text = ""
    try:
        text = _read(path, 200).decode("utf-8-sig").strip()
        why = "" if moment(text) else plain(text) or "it is empty"
    except Unreadable as error:
        why = str(error)
    except UnicodeDecodeError:
        why = "it is no text"
    if why:
        notes.append(f"timestamp.txt could not be read: {why}; lateness is not known")
    return text


def _files(folder: Path, notes: list[str]) -> Iterator[File]:
    """What lies in a student's folder."""
    seen = 0
    for top, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in OLD)
        if len(Path(top).relative_to(folder).parts) >= DEEP and folders:
            notes.append(f"folders within more than {DEEP} others: not looked at")
            folders.clear()
        for name in list(folders):
            if (Path(top) / name).is_symlink():
                notes.append(f"the folder {plain(name)} is a link, not followed")
        for name in sorted(names):
            seen += 1
            if seen > 1000:
                notes.append("more than 1000 files: the others were not looked at")
                return
            path = Path(top) / name
            inside = str(path.relative_to(folder))
            if name.lower().endswith((*NOTEBOOKS, ".zip")):
                yield _from_disk(path, inside)
            elif name not in EXCHANGE:
                yield File(inside)


def _from_disk(path: Path, name: str = "") -> File:
    return File(name or path.name, read=partial(_read, path, LARGEST))


def _out_of_zips(files: list[File], notes: list[str]) -> list[File]:
    """The files of a student, and those in their zips where no notebook lies beside these."""
    if any(file.book and not file.zipped for file in files):
        return [File(file.name) if file.zipped else file for file in files]
    budget = exports.Budget()
    return [inner for file in files for inner in (exports.opened(file, notes, budget) if file.zipped else [file])]


def _read(path: Path, most: int) -> bytes:
    """The bytes of a plain file; never a link's, a pipe's or a device's."""
    try:
        at = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        what = "is a link, which is not followed" if path.is_symlink() else f"cannot be opened ({error.strerror})"
        raise Unreadable(f"{plain(path.name)} {what}") from None
    with os.fdopen(at, "rb") as file:
        if not stat.S_ISREG(os.fstat(at).st_mode):
            raise Unreadable(f"{plain(path.name)} is no plain file")
        raw = file.read(most + 1)
    if len(raw) > most:
        raise Unreadable(f"{plain(path.name)} has more than {f'{most // MIB} MiB' if most >= MIB else f'{most} bytes'}")
    return raw


# In zips


def _exported(path: Path, units: Sequence[str], told: list[str]) -> Iterator[Submission]:
    for person, unit, files in exports.bundles(path, units, told):
        late, origin, number, name = person.late, person.origin, person.number, person.name
        submission = Submission(person.student, unit, late=late, origin=origin, number=number, name=name)
        yield _chosen(submission, files)


def _fitting(found: Iterable[Submission]) -> list[Submission]:
    """Submissions whose notebooks can be held at once; of those that are too many, the largest go."""
    kept: list[Submission] = []
    size = 0
    for submission in found:
        kept.append(submission)
        size += len(submission.raw)
        while size > LARGEST_ZIP:
            largest = max(kept, key=lambda submission: len(submission.raw))
            size -= len(largest.raw)
            largest.raw = b""
            largest.why_not = (
                f"the notebooks of the zip have more than {LARGEST_ZIP // MIB} MiB, and this is one of the largest"
            )
    return kept


# Which one counts


def _chosen(submission: Submission, files: list[File]) -> Submission:
    """Take the notebook out of what a student handed in."""
    books = [file for file in files if file.book]
    others = [file.name for file in files if not file.book]
    wanted = f"{submission.unit}.ipynb".lower()
    named = [file for file in books if PurePosixPath(file.name).name.lower() == wanted]
    nearly = [
        file for file in books if re.sub(r"[-_ (]*(copy)?\d*\)?(?=\.ipynb)", "", file.name.lower()).endswith(wanted)
    ]
    # Canvas counts on where a student uploads a name again; elsewhere a copy is what was left aside
    best = (nearly if submission.origin == "canvas" else named or nearly) or books
    if not best:
        submission.why_not = "no notebook was handed in" + (f", but {_list(others)}" if others else "")
        return submission
    if len(best) > 1:
        best = sorted(best, key=lambda file: (file.name.count("/"), -_attempt(file.name), file.name))
        first, second = best[:2]
        if first.name.count("/") == second.name.count("/") and _attempt(first.name) == _attempt(second.name):
            submission.why_not = (
                f"several notebooks, and none is {submission.unit}.ipynb: {_list([f.name for f in best])}"
            )
            return submission
    book = best[0]
    submission.raw, submission.why_not = book.content()
    if PurePosixPath(book.name).name != f"{submission.unit}.ipynb" and submission.origin != "notebook":
        submission.notes.append(f"the notebook is called {plain(book.name)}")
    rest = [file.name for file in books if file is not book]
    if rest:
        submission.notes.append(f"other notebooks, not graded: {_list(rest)}")
    ours = f"checks_{submission.unit.split('_', maxsplit=1)[-1]}.py"
    others = [name for name in others if name != ours]
    if others:
        submission.notes.append(f"other files, not used: {_list(others)}")
    return submission


def _attempt(name: str) -> int:
    """Canvas and browsers count uploads of one name: -1, -2, and (1), (2)."""
    found = re.search(r"[-(](\d+)\)?\.ipynb", name.lower())
    return int(found[1]) if found and len(found[1]) < 4 else 0


def _known(found: list[Submission], course: Path, told: list[str]) -> list[Submission]:
    """Students by the names of the class list, where ``students.csv`` gives their numbers in Canvas or Moodle."""
    people = class_list(course if course.is_dir() else course.parent)
    by_number = {(kind, row[kind]): row["student"] for row in people for kind in ("canvas", "moodle") if row.get(kind)}
    groups = {row["group"] for row in people if row.get("group")}
    for submission in found:
        if submission.origin == "moodle" and submission.name in groups:  # its number is the group's, and no person's
            submission.student, submission.number = safe_name(submission.name), ""
        submission.student = by_number.get((submission.origin, submission.number), submission.student)
    names = {row["student"] for row in people} | {safe_name(group) for group in groups}
    if names:
        told += [f"{name}: not in students.csv, and graded" for name in sorted({s.student for s in found} - names)]
    return found


def class_list(course: Path) -> list[dict[str, str]]:
    """The rows of ``students.csv``: student, name, email, canvas, moodle, group; all but the first may be missing.

    A student is called as their folder is: by the safe name of what stands there.

    Raises:
        ValueError: if it has no column ``student``, a name of which nothing is left, or somebody twice.
    """
    path = course / "students.csv"
    if not path.is_file():
        return []
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")  # as a spreadsheet on Windows writes it
    head = text.split("\n", 1)[0]
    rows = [
        {key.strip().lower(): (value or "").strip() for key, value in row.items() if key}
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in head else ",")
    ]
    for row in rows:
        student = safe_name(row.get("student", ""))
        if not student:
            raise ValueError(f"{path}: each row needs a student, whose name a folder can have; got {row}")
        row["student"] = student
    for column in ("student", "canvas", "moodle"):
        for value, times in Counter(row[column] for row in rows if row.get(column)).items():
            if times > 1:
                raise ValueError(f"{path}: {column} {value} is there {times} times")
    return rows


def _once(found: list[Submission], told: list[str]) -> list[Submission]:
    kept: dict[tuple[str, str], Submission] = {}
    for submission in found:
        first = kept.setdefault((submission.unit, submission.student), submission)
        if first is not submission:
            told.append(f"{submission.student}, {submission.unit}: handed in twice; the one from {first.origin} counts")
    return [kept[key] for key in sorted(kept)]


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(plain(name) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")

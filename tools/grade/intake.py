"""Find and read submissions: as nbgrader lays them out, in a zip of Canvas or Moodle, or as one notebook.

Nothing is unpacked, no link is followed, and no more is read than a notebook may be large. What cannot be read becomes
a sentence, and never a grade.
"""

import contextlib
import csv
import io
import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MIB = 2**20
LARGEST = 64 * MIB
"""Bytes of the largest notebook that is read."""
LARGEST_ZIP = 2048 * MIB
"""Bytes that are read out of one zip in all."""
LARGEST_INNER = 256 * MIB
"""Bytes that are read out of a zip that a student handed in."""
ENTRIES = 20_000
"""Files in a zip beyond which it is no class's."""
NAME = 1_000
"""Letters of a path in a zip beyond which it is no file's."""
DEEP = 20
"""Folders within each other beyond which nothing is looked for."""
OLD = {".ipynb_checkpoints", "__pycache__", "__MACOSX", ".git"}
EXCHANGE = {"timestamp.txt", "submission_secret.txt"}
"""What nbgrader's exchange lays beside a submission."""

# lovelaceada_1234_5678_02_gumbel.ipynb, lovelaceada_LATE_1234_5678_02_gumbel-1.ipynb; a text that was typed has no
# number of an upload; with anonymous grading it is anon_x7Kf2_5678_02_gumbel.ipynb or LATE_anon_x7Kf2_5678_…
CANVAS = re.compile(
    r"^(?:(?:(?P<late_anon>LATE)_)?(?P<anon>anon_(?!\d+_)[A-Za-z0-9]{1,20})"
    r"|(?P<name>[^/]{1,200}?)_(?:(?P<late>LATE)_)?(?P<number>\d{1,20}))"
    r"_(?:\d{1,20}_(?P<file>[^/]+(?:/.+)?)|(?P<typed>(?:text|link)\.html))$"
)
# Ada Lovelace_1234_assignsubmission_file_/02_gumbel.ipynb, or without a folder of its own. Where groups hand in, it is
# the group's name and number, Team A_17_assignsubmission_file/…, and no number for those who are in none
MOODLE = re.compile(
    r"^(?P<name>[^/]{1,300}?)(?:_(?P<number>\d{1,20}))?_assignsubmission_(?P<kind>[a-z]{1,30})_?[/_](?P<file>.+)$"
)


class Unreadable(Exception):
    """Why a submission cannot be graded, in a sentence."""


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


@dataclass
class _File:
    """A file that may be a notebook: its name, and its bytes or why there are none."""

    name: str
    raw: bytes = b""
    why_not: str = ""


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
        found += _zip(path, units, told)
    if not found and not told and not (course / "submitted").is_dir() and not zips:
        raise ValueError(f"{course} has neither submitted/ nor a zip in it: collect the submissions first")
    return _once(_known(found, course, told), told), told


def safe_name(text: str) -> str:
    """A student's name as a folder can have it; nothing if none is left."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[\s/\\:*?\"<>|\x00-\x1f\x7f\ud800-\udfff]+", "-", text).strip(".- ")
    return text.encode()[:120].decode(errors="ignore").strip(".- ")  # of 255 bytes that a file's name can have


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
    for home in sorted(submitted.iterdir()):
        if home.suffix.lower() == ".zip" or home.name.startswith("."):
            continue
        if home.is_symlink() or not home.is_dir():
            told.append(f"submitted/{_plain(home.name)}: no folder of a student's, left alone")
            continue
        if safe_name(home.name) != home.name:
            told.append(f"submitted/{_plain(home.name)}: no student can have this name")
            continue
        for unit in units:
            folder = home / unit
            if folder.is_symlink():
                yield Submission(home.name, unit, why_not="the folder is a link, which is not followed")
            elif folder.is_dir():
                submission = Submission(home.name, unit)
                with contextlib.suppress(Unreadable, UnicodeDecodeError):
                    submission.when = _read(folder / "timestamp.txt", 200).decode().strip()
                yield _chosen(submission, list(_files(folder, submission.notes)))
            elif os.path.lexists(folder):
                yield Submission(home.name, unit, why_not="there is a file where the folder should be")


def _files(folder: Path, notes: list[str]) -> Iterator[_File]:
    """What lies in a student's folder; notebooks read."""
    seen = 0
    for top, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in OLD)
        if len(Path(top).relative_to(folder).parts) >= DEEP and folders:
            notes.append(f"folders within more than {DEEP} others: not looked at")
            folders.clear()
        for name in list(folders):
            if (Path(top) / name).is_symlink():
                notes.append(f"the folder {_plain(name)} is a link, not followed")
        for name in sorted(names):
            seen += 1
            if seen > 1000:
                notes.append("more than 1000 files: the others were not looked at")
                return
            path = Path(top) / name
            inside = str(path.relative_to(folder))
            if name.lower().endswith((".ipynb", ".ipynb.txt", ".ipynb.json")):
                yield _from_disk(path, inside)
            elif name not in EXCHANGE:
                yield _File(inside)


def _from_disk(path: Path, name: str = "") -> _File:
    try:
        raw = _read(path, LARGEST)
        return _File(name or path.name, raw, "" if raw else "the file is empty")
    except Unreadable as error:
        return _File(name or path.name, why_not=str(error))


def _read(path: Path, most: int) -> bytes:
    """The bytes of a plain file; never a link's, a pipe's or a device's."""
    try:
        at = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        what = "is a link, which is not followed" if path.is_symlink() else f"cannot be opened ({error.strerror})"
        raise Unreadable(f"{_plain(path.name)} {what}") from None
    with os.fdopen(at, "rb") as file:
        if not stat.S_ISREG(os.fstat(at).st_mode):
            raise Unreadable(f"{_plain(path.name)} is no plain file")
        raw = file.read(most + 1)
    if len(raw) > most:
        raise Unreadable(f"{_plain(path.name)} has more than {most // MIB} MiB")
    return raw


# In a zip


def _zip(path: Path, units: Sequence[str], told: list[str]) -> list[Submission]:
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_people(_entries(archive, path.name, told, LARGEST_ZIP), path.stem, units, told))
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError) as error:
        told.append(f"{path.name}: the zip cannot be read ({_plain(str(error))})")
        return []


def _entries(archive: zipfile.ZipFile, zip_name: str, told: list[str], left: int, deep: bool = True) -> Iterator[_File]:
    """The plain files of a zip under safe names, notebooks read, and one level of zips within it; ``left`` bytes."""
    infos = archive.infolist()
    if len(infos) > ENTRIES:
        raise ValueError(f"it holds {len(infos)} files")
    seen: set[str] = set()
    for info in infos:
        name = unicodedata.normalize("NFC", info.filename.replace("\\", "/"))
        path = PurePosixPath(name)
        if info.is_dir() or OLD & set(path.parts) or path.name.startswith("._"):
            continue
        if len(name) > NAME:
            told.append(f"{zip_name}: a file whose name has {len(name)} letters, left out")
            continue
        if path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", name) or "\x00" in name:
            told.append(f"{zip_name}: {_plain(name)} leads out of the zip, left out")
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            yield _File(name, why_not=f"{_plain(path.name)} is a link, which is not followed")
            continue
        if name in seen:
            told.append(f"{zip_name}: {_plain(name)} is in it twice; the first one counts")
            continue
        seen.add(name)
        nested = deep and path.suffix.lower() == ".zip"
        if not nested and not path.name.lower().endswith((".ipynb", ".ipynb.txt", ".ipynb.json")):
            yield _File(name)
            continue
        try:
            with archive.open(info) as file:
                raw = file.read(min(LARGEST, left) + 1)
        except (RuntimeError, zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError) as error:
            yield _File(name, why_not=f"{_plain(path.name)} cannot be read out of the zip ({_plain(str(error))})")
            continue
        except Exception as error:  # zlib's and lzma's own
            yield _File(name, why_not=f"{_plain(path.name)} is damaged ({_plain(str(error))})")
            continue
        left -= len(raw)
        if len(raw) > LARGEST or left < 0:
            yield _File(name, why_not=f"{_plain(path.name)} unpacks to more than {LARGEST // MIB} MiB")
            left = max(left, 0)
            continue
        if not nested:
            yield _File(name, raw, "" if raw else "the file is empty")
            continue
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as inner:
                for file in _entries(inner, path.name, told, min(LARGEST_INNER, left), deep=False):
                    left -= len(file.raw)
                    yield _File(f"{name}/{file.name}", file.raw, file.why_not)
        except Exception as error:
            yield _File(name, why_not=f"{_plain(path.name)} cannot be read ({_plain(str(error))})")


def _people(files: Iterator[_File], stem: str, units: Sequence[str], told: list[str]) -> Iterator[Submission]:
    """The files of a zip, put together by student and unit."""
    bundles: dict[tuple[str, str], tuple[Submission, list[_File]]] = {}
    folders: dict[str, str] = {}
    for file in _without_top(list(files)):
        if whose := _whose(file.name):
            person, inner = whose
        elif "/" in file.name:
            parts = file.name.split("/")
            parts = parts[1:] if parts[0] in ("submitted", stem) and len(parts) > 2 else parts
            person, inner = Submission(safe_name(parts[0]), "", origin="zip"), "/".join(parts[1:])
            if folders.setdefault(person.student, parts[0]) != parts[0]:
                both = f"{_plain(folders[person.student])} and {_plain(parts[0])}"
                told.append(f"{stem}.zip: {both} would have one name; {_plain(file.name)} is left out")
                continue
        else:
            if file.raw or file.why_not:
                told.append(f"{stem}.zip: whose {_plain(file.name)} is cannot be told from its name")
            continue
        if not person.student:
            told.append(f"{stem}.zip: {_plain(file.name)} has no student's name")
            continue
        unit = next((unit for unit in units if unit in file.name), "")
        unit = unit or next((unit for unit in units if unit in stem), "") or (units[0] if len(units) == 1 else "")
        if not unit:
            if file.raw or file.why_not:
                told.append(f"{stem}.zip: the unit of {_plain(file.name)} cannot be told from its name")
            continue
        person.unit = unit
        bundles.setdefault((person.student, unit), (person, []))[1].append(_File(inner, file.raw, file.why_not))
    for person, bundle in bundles.values():
        yield _chosen(person, bundle)


def _whose(name: str) -> tuple[Submission, str] | None:
    """Who handed a file in, by the name that Canvas or Moodle gives it, and the file's own name."""
    if found := CANVAS.match(name):
        late, inner = bool(found["late"] or found["late_anon"]), found["file"] or found["typed"]
        if found["anon"]:
            return Submission(found["anon"], "", late=late, origin="canvas", name=found["anon"]), inner
        person = Submission(_numbered(found), "", late=late, origin="canvas")
    elif found := MOODLE.match(name):
        person, inner = Submission(_numbered(found), "", origin="moodle"), found["file"]
    else:
        return None
    person.number, person.name = found["number"] or "", found["name"]
    return person, inner


def _numbered(found: re.Match[str]) -> str:
    return safe_name(f"{safe_name(found['name'])}-{found['number'] or ''}")


def _without_top(files: list[_File]) -> list[_File]:
    """The files of Canvas or Moodle that somebody packed again in one folder, without that folder."""
    tops = {file.name.split("/")[0] for file in files}
    if len(tops) != 1 or any(_whose(file.name) for file in files):
        return files
    inner = [_File(file.name.partition("/")[2], file.raw, file.why_not) for file in files]
    return inner if any(_whose(file.name) for file in inner) else files


# Which one counts


def _chosen(submission: Submission, files: list[_File]) -> Submission:
    """Take the notebook out of what a student handed in."""
    books = [file for file in files if file.raw or file.why_not]
    others = [file.name for file in files if not file.raw and not file.why_not]
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
    submission.raw, submission.why_not = book.raw, book.why_not
    if PurePosixPath(book.name).name != f"{submission.unit}.ipynb" and submission.origin != "notebook":
        submission.notes.append(f"the notebook is called {_plain(book.name)}")
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

    Raises:
        ValueError: if it has no column ``student``, a name that no folder can have, or somebody twice.
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
        if not row.get("student") or safe_name(row["student"]) != row["student"]:
            raise ValueError(f"{path}: each row needs a student, whose name a folder can have; got {row}")
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


def _plain(text: str) -> str:
    """A name that was chosen by somebody else, safe to print."""
    text = text.encode("utf-8", "replace").decode()
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", "?", text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(_plain(name) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")

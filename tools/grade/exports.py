"""Read zips: the exports of Canvas and Moodle, folders of students, and the zips that students handed in.

Nothing is unpacked before it is asked for, and then into memory; no name leads out of a zip, and no student's zips take
room from the others'. Whose a file is stands in its name; which of a student's files counts, ``intake`` says.
"""

import contextlib
import io
import re
import stat
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from tools.notebooks import units as known_units

MIB = 2**20
LARGEST = 64 * MIB
"""Bytes of the largest notebook that is read."""
LARGEST_INNER = 256 * MIB
"""Bytes to which the zips of one student may unpack, all of them together."""
ENTRIES = 20_000
"""Files in a zip beyond which it is no class's."""
NAME = 1_000
"""Letters of a path in a zip beyond which it is no file's."""
OLD = {".ipynb_checkpoints", "__pycache__", "__MACOSX", ".git"}
OF_WINDOWS = {"thumbs.db", "desktop.ini"}
NOTEBOOKS = (".ipynb", ".ipynb.txt", ".ipynb.json")

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
    r"^(?P<name>[^/]{1,300}?)(?:_(?P<number>\d{1,20}))?_assignsubmission_(?P<kind>[a-z]{1,30})_?[/_](?P<file>.+)$",
    re.DOTALL,
)


class Unreadable(Exception):
    """Why a submission cannot be graded, in a sentence."""


@dataclass
class File:
    """A file that was handed in.

    Attributes:
        name: with the folders and the zip in which it lies.
        why_not: why it cannot be read, or nothing.
        read: gives its bytes, if it is a notebook or a zip.
        size: in bytes, unpacked, as the zip says in which it lies.
    """

    name: str
    why_not: str = ""
    read: Callable[[], bytes] | None = None
    size: int = 0

    @property
    def zipped(self) -> bool:
        """Whether it is a zip that can be looked into."""
        return self.read is not None and self.name.lower().endswith(".zip")

    @property
    def book(self) -> bool:
        """Whether it may be the notebook that was handed in."""
        return self.read is not None or bool(self.why_not)

    def content(self) -> tuple[bytes, str]:
        """Its bytes, or why there are none."""
        try:
            raw = self.read() if self.read else b""
        except (Unreadable, OSError) as error:
            return b"", str(error)
        return raw, self.why_not or ("" if raw else "the file is empty")


@dataclass
class Budget:
    """What one student's zips may still hold: bytes, unpacked, and files."""

    size: int = field(default_factory=lambda: LARGEST_INNER)
    files: int = field(default_factory=lambda: ENTRIES)


@dataclass(frozen=True)
class Person:
    """Who handed a file in, as its name in a zip says.

    Attributes:
        student: a safe name.
        origin: "canvas", "moodle" or "zip".
        late: the system that it comes from marked it as late.
        number: the student's number in Canvas, or the participant's in Moodle.
        name: as that system writes it.
    """

    student: str
    origin: str
    late: bool = False
    number: str = ""
    name: str = ""


Who = Callable[[str], tuple[Person, str] | None]
"""Who handed a file in, by its name in a zip, and the name that they gave it; None if it does not say."""


def bundles(path: Path, units: Sequence[str], told: list[str]) -> Iterator[tuple[Person, str, list[File]]]:
    """The students of a zip, each with a unit and its files, which can be read while these are gone through."""
    try:
        with zipfile.ZipFile(path) as archive:
            every = {*units, *known_units()}
            files = list(_entries(archive.infolist(), lambda: contextlib.nullcontext(archive), path.name, told))
            files = _without_wrapper(_without_top(files), every)
            files = _without_top(list(_looked_into(files, _who(files, path.stem, every), told)))
            yield from _people(files, _who(files, path.stem, every), path.stem, units, told)
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError) as error:
        told.append(f"{path.name}: the zip cannot be read ({plain(str(error))})")


def _entries(
    infos: Sequence[zipfile.ZipInfo],
    archive: Callable[[], AbstractContextManager[zipfile.ZipFile]],
    zip_name: str,
    told: list[str],
) -> Iterator[File]:
    """The plain files of a zip under safe names; nothing is unpacked yet."""
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
            told.append(f"{zip_name}: {plain(name)} leads out of the zip, left out")
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            yield File(name, f"{plain(path.name)} is a link, which is not followed")
            continue
        if name in seen:
            told.append(f"{zip_name}: {plain(name)} is in it twice; the first one counts")
            continue
        seen.add(name)
        if name.lower().endswith((*NOTEBOOKS, ".zip")):
            yield File(name, read=partial(_unpacked, archive, info, path.name), size=info.file_size)
        elif not any(part.startswith(".") for part in path.parts) and path.name.lower() not in OF_WINDOWS:
            yield File(name)


def _unpacked(opened: Callable[[], AbstractContextManager[zipfile.ZipFile]], info: zipfile.ZipInfo, name: str) -> bytes:
    """The bytes of a file in a zip."""
    try:
        with opened() as archive, archive.open(info) as file:
            raw = file.read(LARGEST + 1)
    except (RuntimeError, zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError) as error:
        raise Unreadable(f"{plain(name)} cannot be read out of the zip ({plain(str(error))})") from None
    except Exception as error:  # zlib's and lzma's own
        raise Unreadable(f"{plain(name)} is damaged ({plain(str(error))})") from None
    if len(raw) > LARGEST:
        raise Unreadable(f"{plain(name)} unpacks to more than {LARGEST // MIB} MiB")
    return raw


def _looked_into(files: Sequence[File], who: Who, told: list[str]) -> Iterator[File]:
    """The files of a zip, and those of the zips within it, for which each student has a budget of their own."""
    budgets: dict[str, Budget] = defaultdict(Budget)
    for file in files:
        if file.zipped:
            whose = who(file.name)
            yield from opened(file, told, budgets[whose[0].student if whose else file.name])
        else:
            yield file


def opened(file: File, told: list[str], budget: Budget) -> list[File]:
    """What lies in a zip that a student handed in, where no zip is looked into again; its bytes are not kept."""
    name = plain(PurePosixPath(file.name).name)
    too_much = f"unpacks to more than {LARGEST_INNER // MIB} MiB, with what else was handed in as zips"
    if budget.size <= 0:
        return [File(file.name, f"{name} {too_much}")]
    raw, why_not = file.content()
    if why_not:
        return [File(file.name, why_not)]
    budget.size -= len(raw)
    found: list[File] = []
    again = partial(_zip_of, file)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            infos = archive.infolist()
        budget.files -= len(infos)
        if budget.files < 0:
            raise ValueError(f"more than {ENTRIES} files in zips")
        for inner in _entries(infos, again, PurePosixPath(file.name).name, told):
            whole = f"{file.name}/{inner.name}"
            if inner.zipped:
                found.append(File(whole))
            elif inner.size > budget.size:
                found.append(File(whole, f"{plain(PurePosixPath(inner.name).name)} {too_much}"))
            else:
                budget.size -= inner.size
                found.append(replace(inner, name=whole))
    except Exception as error:
        return [File(file.name, f"{name} cannot be read ({plain(str(error))})")]
    return found or [File(file.name)]


def _zip_of(file: File) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(file.content()[0]))


def _people(
    files: Sequence[File], who: Who, stem: str, units: Sequence[str], told: list[str]
) -> Iterator[tuple[Person, str, list[File]]]:
    """The files of a zip, put together by student and unit."""
    found: dict[tuple[str, str], tuple[Person, str, list[File]]] = {}
    folders: dict[str, str] = {}
    for file in files:
        whose = who(file.name)
        if not whose:
            if file.book:
                told.append(f"{stem}.zip: whose {plain(file.name)} is cannot be told from its name")
            continue
        person, inner = whose
        folder = file.name.removesuffix(f"/{inner}").split("/")[-1]
        if person.origin == "zip" and folders.setdefault(person.student, folder) != folder:
            both = f"{plain(folders[person.student])} and {plain(folder)}"
            told.append(f"{stem}.zip: {both} would have one name; {plain(file.name)} is left out")
            continue
        if not person.student:
            told.append(f"{stem}.zip: {plain(file.name)} has no student's name")
            continue
        unit = next((unit for unit in units if unit in file.name), "")
        unit = unit or next((unit for unit in units if unit in stem), "") or (units[0] if len(units) == 1 else "")
        if not unit:
            if file.book:
                told.append(f"{stem}.zip: the unit of {plain(file.name)} cannot be told from its name")
            continue
        found.setdefault((person.student, unit), (person, unit, []))[2].append(replace(file, name=inner))
    yield from found.values()


def _who(files: Sequence[File], stem: str, units: set[str]) -> Who:
    """What tells whose a file of this zip is."""
    # in Canvas too a student may call a file as Moodle would; the others' names tell that the zip is of Canvas
    canvas = any(file.book and CANVAS.match(file.name) and not MOODLE.match(file.name) for file in files)
    tops = {"submitted", stem}

    def who(name: str) -> tuple[Person, str] | None:
        if (whose := _whose(name, canvas=canvas)) or "/" not in name:
            return whose
        parts = name.split("/")
        parts = parts[1:] if parts[0] in tops and len(parts) > 2 and parts[1] not in units else parts
        return Person(safe_name(parts[0]), "zip"), "/".join(parts[1:])

    return who


def _whose(name: str, *, canvas: bool = False) -> tuple[Person, str] | None:
    """Who handed a file in, by the name that Canvas or Moodle gives it, and the file's own name."""
    moodles = MOODLE.match(name)
    if (found := CANVAS.match(name)) and (canvas or not moodles):
        late, inner = bool(found["late"] or found["late_anon"]), found["file"] or found["typed"]
        if found["anon"]:
            return Person(found["anon"], "canvas", late, name=found["anon"]), inner
        return Person(_numbered(found), "canvas", late, found["number"], found["name"]), inner
    if moodles:
        return Person(_numbered(moodles), "moodle", False, moodles["number"] or "", moodles["name"]), moodles["file"]
    return None


def _numbered(found: re.Match[str]) -> str:
    return safe_name(f"{safe_name(found['name'])}-{found['number'] or ''}")


def _without_top(files: list[File]) -> list[File]:
    """The files of Canvas or Moodle that somebody packed again in one folder, without that folder."""
    tops = {file.name.split("/")[0] for file in files}
    if len(tops) != 1 or any(_whose(file.name) for file in files):
        return files
    inner = [replace(file, name=file.name.partition("/")[2]) for file in files]
    return inner if any(_whose(file.name) for file in inner) else files


WRAPPERS = ("submissions", "submission", "class")
"""What a folder round the folders of students is called, where there is one student in it."""


def _without_wrapper(files: list[File], units: set[str]) -> list[File]:
    """The files of students' folders that lie in one folder, without that; a student's folder of units is none."""
    parts = [file.name.split("/") for file in files]
    if len({part[0] for part in parts}) != 1 or any(_whose(file.name) for file in files):
        return files
    if any(len(part) < 3 or part[1] in units for part in parts):
        return files
    if len({part[1] for part in parts}) == 1 and parts[0][0].casefold() not in WRAPPERS:
        return files
    return [replace(file, name=file.name.partition("/")[2]) for file in files]


# Names


def safe_name(text: str) -> str:
    """A student's name as a folder can have it; nothing if none is left."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[\s/\\:*?\"<>|\x00-\x1f\x7f\ud800-\udfff]+", "-", text).strip(".- ")
    return text.encode()[:120].decode(errors="ignore").strip(".- ")  # of 255 bytes that a file's name can have


def plain(text: str) -> str:
    """A name that was chosen by somebody else, safe to print."""
    text = text.encode("utf-8", "replace").decode()
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", "?", text)
    return text if len(text) <= 80 else f"{text[:77]}..."

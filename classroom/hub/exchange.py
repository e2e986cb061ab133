"""nbgrader's exchange for a teacher who trusts no folder in it.

Every student may write into the folder where submissions arrive, whatever nbgrader's own command would write. So
collecting looks at whose the files are, follows no link, reads plain files alone, and takes the time of a submission
from the file system where the student's word differs from it. What is amiss is a warning, and stops nobody else.
"""

import json
import os
import pwd
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from nbgrader.exchange.default import ExchangeCollect, ExchangeReleaseFeedback
from nbgrader.utils import notebook_hash, parse_utc
from traitlets import Bool, Enum

from classroom.hub.people import NAME

SECRET = re.compile(r"[0-9a-f]{32,256}")
MIB = 2**20
LARGEST, FILES = 64 * MIB, 1000  # of a submission, beyond which it is none: as `python -m tools.grade` reads it
DELAY = 120  # seconds that copying a submission may take; beyond them its time is what the file system says
TIME = "%Y-%m-%d %H:%M:%S.%f UTC"  # as nbgrader writes it


class Refused(Exception):
    """Why a folder is no submission, in a sentence."""


class Handed(NamedTuple):
    """A submission: the student, its folder, and when it was handed in, in UTC."""

    student: str
    folder: str
    when: datetime


def user_id(name: str) -> int:
    """The number under which a student runs where there are no accounts, the same on every machine.

    Of 200 students two have the same with a chance of 2 in 100,000.
    """
    return 100_000 + zlib.crc32(name.encode()) % 2**30


class Collect(ExchangeCollect):
    """Collects each student's last submission into ``submitted/``."""

    owners = Enum(
        ["accounts", "ids", "any"],
        default_value="accounts",
        help="Whose a folder must be: the student's local account's, their number's (see user_id), or anybody's.",
    ).tag(config=True)
    believe_times = Bool(
        False, help="Take the times that the folders say, as after the exchange was restored from a backup."
    ).tag(config=True)

    def init_src(self) -> None:
        """Find each student's last submission."""
        if not self.coursedir.course_id:
            self.fail("no course is named: --course NAME, or course_id in nbgrader_config.py")
        self.inbound_path = os.path.join(self.root, self.coursedir.course_id, "inbound")
        try:
            names = sorted(os.listdir(self.inbound_path))
        except OSError as error:
            self.fail(f"{self.inbound_path} cannot be read ({error.strerror}): exchange.sh makes it")
        last: dict[str, Handed] = {}
        for name in names:
            student, _, rest = name.partition("+")
            unit, _, rest = rest.partition("+")
            if unit != self.coursedir.assignment_id or self.coursedir.student_id not in ("*", "", student):
                continue
            try:
                handed = self._handed(name, student, rest.partition("+")[0])
            except Refused as reason:
                self.log.warning("left alone: %r: %s", name, reason)
                continue
            if student not in last or handed.when > last[student].when:
                last[student] = handed
        self.src_records = [last[student] for student in sorted(last)]

    def _handed(self, name: str, student: str, said: str) -> Handed:
        if not NAME.fullmatch(student):
            raise Refused("no student can have this name")
        with self._opened(name) as (folder, owner):
            if not self._is_owner(student, owner):
                raise Refused(f"it says that {student} handed it in, and belongs to {_who(owner)}")
            seen = datetime.fromtimestamp(_changed(folder, owner), UTC).replace(tzinfo=None)
        try:
            when = parse_utc(said)
        except (ValueError, OverflowError, TypeError, AttributeError):
            raise Refused(f"{said!r} is no time") from None
        if not self.believe_times and abs((when - seen).total_seconds()) > DELAY:
            self.log.warning("%s says that it was handed in at %s; it was there at %s", student, when, seen)
            when = seen
        return Handed(student, name, when)

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, int]]:
        """A folder, for reading, and whose it is; never one behind a link."""
        try:
            at = os.open(os.path.join(self.inbound_path, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise Refused(f"it is no folder, or cannot be opened ({error.strerror})") from None
        try:
            yield at, os.fstat(at).st_uid
        finally:
            os.close(at)

    def _is_owner(self, student: str, owner: int) -> bool:
        if self.owners == "any" or not self.check_owner:
            return True
        if self.owners == "ids":
            return owner == user_id(student)
        with suppress(KeyError):
            return pwd.getpwnam(student).pw_uid == owner
        return False

    def copy_files(self) -> None:
        """Copy what is new."""
        self.log.info("%d submissions of %s", len(self.src_records), self.coursedir.assignment_id)
        for handed in self.src_records:
            target = Path(
                self.coursedir.format_path(
                    self.coursedir.submitted_directory, handed.student, self.coursedir.assignment_id
                )
            )
            when = handed.when.strftime(TIME)
            with suppress(OSError, UnicodeDecodeError):
                if (target / "timestamp.txt").read_text().strip() == when or not self.update:
                    continue
            try:
                self._take(handed, target, when)
                self.log.info("collected: %s, of %s", handed.student, when)
            except (Refused, OSError) as reason:
                self.log.warning("left alone: %s: %s", handed.folder, reason)

    def _take(self, handed: Handed, target: Path, when: str) -> None:
        """A copy in the place of the last one, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            with self._opened(handed.folder) as (folder, owner):
                for inside, at in _plain_files(
                    folder, owner, lambda why: self.log.warning("%s: %s", handed.student, why)
                ):
                    copy = place / inside
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    with os.fdopen(os.dup(at), "rb") as source, copy.open("wb") as sink:
                        shutil.copyfileobj(source, sink, MIB)
            (place / "timestamp.txt").write_text(when)
            place.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            place.rename(target)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def _who(owner: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(owner).pw_name
    return f"number {owner}"


def _changed(folder: int, owner: int) -> float:
    """When a submission was last touched: a time that its owner cannot set."""
    times = [os.fstat(folder).st_ctime]
    for _, at in _plain_files(folder, owner, lambda why: None):
        times.append(os.fstat(at).st_ctime)
    return max(times)


def _plain_files(folder: int, owner: int, told: Callable[[str], object]) -> Iterator[tuple[str, int]]:
    """The plain files of a submission that are its owner's, each opened: path inside, and descriptor."""
    count = size = 0
    # by descriptors, so that nothing is put in the place of what was looked at
    for top, folders, names, at in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
        folders[:] = sorted(name for name in folders if name != ".ipynb_checkpoints")
        for name in sorted(names):
            inside = os.path.normpath(os.path.join(top, name))
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            except OSError:
                told(f"{inside!r} is a link, or cannot be read: left out")
                continue
            try:
                found = os.fstat(file)
                count, size = count + 1, size + found.st_size
                if count > FILES or size > LARGEST:
                    raise Refused(f"it has more than {FILES} files, or {LARGEST // MIB} MiB")
                if stat.S_ISREG(found.st_mode) and found.st_uid == owner:
                    yield inside, file
                else:
                    told(f"{inside!r} is no plain file of theirs: left out")
            finally:
                os.close(file)


class ReleaseFeedback(ExchangeReleaseFeedback):
    """Hands back the pages that ``python -m tools.grade`` wrote, to whom has the secret of the submission."""

    def init_src(self) -> None:
        """Nothing is read yet."""

    def copy_files(self) -> None:
        """Put each page where the student's nbgrader looks for it, if it is about what was handed in last."""
        unit, course = self.coursedir.assignment_id, Path(self.coursedir.root)
        pages = sorted((course / self.coursedir.feedback_directory).glob(f"*/{unit}/{unit}.html"))
        given = 0
        for page in pages:
            student = page.parts[-3]
            handed = course / self.coursedir.submitted_directory / student / unit
            try:
                secret = (handed / "submission_secret.txt").read_text(encoding="ascii").strip()
                when = (handed / "timestamp.txt").read_text().strip()
                graded = json.loads((course / "graded" / unit / f"{student}.json").read_text(encoding="utf-8"))["when"]
            except (OSError, ValueError, KeyError):
                self.log.warning("not handed back: %s handed in past nbgrader, and gets the page from you", student)
                continue
            if not SECRET.fullmatch(secret):
                self.log.warning("not handed back: %s: the secret of the submission is none", student)
                continue
            if when != graded:
                self.log.warning("not handed back: %s handed in again: grade first", student)
                continue
            # under each name that the student's copy may have
            for notebook in {unit, *(path.stem for path in list(handed.glob("*.ipynb"))[:20])}:
                self._give(page, Path(self.dest_path) / f"{notebook_hash(secret=secret, notebook_id=notebook)}.html")
            given += 1
        self.log.info("handed back: %d of %d", given, len(pages))

    @staticmethod
    def _give(page: Path, target: Path) -> None:
        new = target.with_suffix(".new")
        shutil.copyfile(page, new)
        new.chmod(0o644)
        new.replace(target)

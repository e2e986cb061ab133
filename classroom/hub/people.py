"""Let a class in: local accounts, and a first password for each.

    sudo /srv/dynlib/hub/bin/python /srv/dynlib/config/people.py students.csv [--new-password NAME] [--no-accounts]

The class list is the one that `python -m tools.grade` reads: it has a column "student". The teachers, of
$DYNLIB_TEACHERS, need no line in it. Whoever has a password keeps it. New ones are added to first-passwords.csv, for
you to hand out; each can be changed at /hub/auth/change-password. Then restart the hub; servers that run go on.
"""

import argparse
import csv
import dbm
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")  # an account; with a longer home the path of a kernel's socket would not fit
FIRST_ID = 1000  # below are the machine's own accounts, on every Linux


def hub() -> Path:
    """The folder of the hub."""
    return Path(os.environ.get("DYNLIB_HUB", "/srv/dynlib"))


def teachers() -> set[str]:
    """Who may do everything."""
    return set(os.environ.get("DYNLIB_TEACHERS", "teacher").split(","))


def students(path: Path) -> set[str]:
    """The names in a class list; none if there is no list.

    Raises:
        ValueError: if it has no column "student", or a name that no account can have.
    """
    if not path.exists():
        return set()
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if "student" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} needs a column 'student', and has {rows.fieldnames}")
        names = [(row["student"] or "").strip() for row in rows]
    if strange := [name for name in names if not NAME.fullmatch(name)]:
        raise ValueError(f"{path}: {strange}: a name is a small letter, then up to 19 of a-z, 0-9 and -")
    return set(names)


def accounts(names: Iterable[str]) -> None:
    """Make the local accounts that are not there, each with a home that nobody else can look into.

    Raises:
        ValueError: if a name is one of the machine's own accounts.
    """
    for name in sorted(names):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True)
            account = pwd.getpwnam(name)
        if account.pw_uid < FIRST_ID:
            raise ValueError(f"{name} is an account of the machine itself: give the student another name")
        os.chmod(account.pw_dir, 0o700)


def passwords(names: Iterable[str], store: Path, again: str = "") -> dict[str, str]:
    """Give a password to each that has none, and to the one that asks again; what was given."""
    import bcrypt

    given = {}
    with dbm.open(str(store), "c", 0o600) as known:
        for name in sorted(names):
            if name == again or name.encode() not in known:
                given[name] = secrets.token_urlsafe(9)
                known[name.encode()] = bcrypt.hashpw(given[name].encode(), bcrypt.gensalt())
    return given


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="the class list")
    parser.add_argument("--new-password", default="", metavar="NAME", help="for one who forgot theirs")
    parser.add_argument("--no-accounts", action="store_true", help="make no local accounts")
    asked = parser.parse_args()
    os.umask(0o077)
    try:
        if not asked.list.is_file():
            raise ValueError(f"there is no class list {asked.list}")
        names = students(asked.list) | teachers()
        if asked.new_password and asked.new_password not in names:
            raise ValueError(f"{asked.new_password} is not in {asked.list}")
        if not asked.no_accounts:
            accounts(names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    given = passwords(names, hub() / "state" / "passwords.dbm", asked.new_password)
    target = hub() / "students.csv"
    if asked.list.resolve() != target.resolve():
        shutil.copyfile(asked.list, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
    told = hub() / "state" / "first-passwords.csv"
    with told.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(sorted(given.items()))
    print(f"{len(names)} may come in; {len(given)} new passwords are in {told}. Restart the hub.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Copy the exercises that are not in work/ yet, bring the check files there up to date, and say what changed since.

What else is in work/ is the learner's and stays as it is.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence

from tools import changes, notebooks


def main(given: Sequence[str] = ()) -> None:
    """Copy, and say what was copied, and what changed since."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brief", action="store_true", help="one line about all exercises that changed")
    brief = parser.parse_args(given).brief
    copied, refreshed = set[str](), list[str]()
    for source in sorted(path for path in notebooks.EXERCISES.rglob("*") if path.is_file()):
        inside = source.relative_to(notebooks.EXERCISES)
        if {".ipynb_checkpoints", "__pycache__"} & set(inside.parts):
            continue
        target = notebooks.WORK / inside
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if target.suffix == ".ipynb":
                copied.add(inside.parts[0])
            elif inside.parts[0] not in copied:
                refreshed.append(target.name)
        elif source.match("checks_*.py") and target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
            refreshed.append(target.name)
    where = notebooks.WORK.relative_to(notebooks.ROOT)
    if copied:
        print(f"{len(copied)} new exercise{'s' if len(copied) > 1 else ''} in {where}/: that is where you work.")
    if refreshed:
        print(f"brought up to date in {where}/: {', '.join(refreshed)}. Your own files stay as they are.")
    told = _changed(copied)
    if told and brief:
        print(f"changed since you copied them: {', '.join(told)}. `make changes {min(told)}` shows how.")
    elif told:
        print("Changed since you copied them; your notebooks stay as they are:")
        for unit, what in told.items():
            print(f"  {unit}: {what}")
        print(f"To see how: make changes {min(told)}")


def _changed(copied: set[str]) -> dict[str, str]:
    """For each unit whose exercise is no longer what the learner's copy was made from, what changed."""
    told: dict[str, str] = {}
    for source in sorted(notebooks.EXERCISES.glob("*/*.ipynb")):
        unit, mine = source.stem, notebooks.WORK / source.relative_to(notebooks.EXERCISES)
        if source != notebooks.exercise(unit):
            continue
        if unit in copied:
            changes.remember(unit)
        elif found := changes.changes(unit, mine):
            told[unit] = changes.summary(found)
        elif not changes.record(unit).exists() and changes.comparable(unit, mine):
            changes.remember(unit)  # a copy of before there were records, and of today's exercise
    return told


if __name__ == "__main__":
    main(sys.argv[1:])

"""Copy the exercises that are not in work/ yet, and bring the check files there up to date.

What else is in work/ is the learner's and stays as it is.
"""

import shutil

from tools.notebooks import EXERCISES, ROOT, WORK


def main() -> None:
    """Copy, and say what was copied."""
    copied, refreshed = set[str](), list[str]()
    for source in sorted(path for path in EXERCISES.rglob("*") if path.is_file()):
        inside = source.relative_to(EXERCISES)
        if {".ipynb_checkpoints", "__pycache__"} & set(inside.parts):
            continue
        target = WORK / inside
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
    where = WORK.relative_to(ROOT)
    if copied:
        print(f"{len(copied)} new exercise{'s' if len(copied) > 1 else ''} in {where}/: that is where you work.")
    if refreshed:
        print(f"brought up to date in {where}/: {', '.join(refreshed)}. Your own files stay as they are.")


if __name__ == "__main__":
    main()

"""Copy the exercises that are not in work/ yet. What is there already is the learner's and stays as it is."""

import shutil

from tools.notebooks import EXERCISES, ROOT, WORK


def main() -> None:
    """Copy, and say what was copied."""
    copied = 0
    for source in sorted(
        path for path in EXERCISES.rglob("*") if path.is_file() and ".ipynb_checkpoints" not in path.parts
    ):
        target = WORK / source.relative_to(EXERCISES)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            copied += 1
    if copied:
        print(f"{copied} new exercise{'s' if copied > 1 else ''} in {WORK.relative_to(ROOT)}/: that is where you work.")


if __name__ == "__main__":
    main()

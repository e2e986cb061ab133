"""A page for each student, without the hidden cases, and one for the teacher."""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tools.grade.files import write
from tools.grade.room import points
from tools.grade.rules import Late
from tools.grade.similar import Pair
from tools.grade.tables import Row

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .6rem; margin: .3rem 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e8e8e8; } pre { background: #24272d; } tr { border-color: #444; }
}
"""


def _page(title: str, body: Sequence[str]) -> str:
    text = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{text}</title>\n<style>{STYLE}</style>\n<h1>{text}</h1>\n" + "\n".join(body) + "\n</html>\n"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def feedback(unit: str, row: Row, late: Late) -> str:
    """What a student is told: points, and for each task that is not done the sentences of its checks."""
    most: dict[str, float] = {}
    for task, value in points(unit).values():
        most[task] = most.get(task, 0.0) + value
    body = []
    if row.result is None or row.state == "unread":
        body.append(f"<p>There is no grade yet: {html.escape(row.why)}. Please ask your teacher.</p>")
        return _page(f"{unit}: your feedback", body)
    total = "not settled yet" if row.points is None else f"{row.points:g} of {sum(most.values()):g}"
    body.append(f"<p>Points: <strong>{total}</strong></p>")
    if said := late.says(row.result):
        body.append(f"<p>{html.escape(said)}.</p>")
    for task, found in row.result["tasks"].items():
        body.append(f"<h2>{html.escape(task)}: {_number(row.tasks.get(task))} of {most[task]:g}</h2>")
        if found["state"] == "tampered":
            body.append("<p>A person looks at this task before it gets points.</p>")
        elif found["state"] == "done":
            body.append("<p>All checks passed.</p>")
        else:
            lines = [line for line in found["says"] if line.strip()] or [found["why"]]
            body.append("<pre>" + html.escape("\n".join(lines)) + "</pre>")
    if row.result["notes"]:
        body.append("<h2>What was found in the notebook</h2>\n<p>It changes nothing in your points.</p>\n<ul>")
        body += [f"<li>{html.escape(note)}</li>" for note in row.result["notes"]]
        body.append("</ul>")
    return _page(f"{unit}: your feedback", body)


def teacher(unit: str, found: Sequence[Row], told: Sequence[str], alike: Sequence[Pair] = ()) -> str:
    """Who has what, how long it took, which task fails most often with which misconception, and who wrote alike."""
    states = Counter(row.state for row in found)
    body = ["<p>" + ", ".join(f"{count} {state}" for state, count in sorted(states.items())) + ".</p>"]
    looks = [row for row in found if row.state in ("tampered", "unread") or (row.result and row.result["look"])]
    if looks:
        body.append("<h2>For you to look at</h2>\n<table><tr><th>student<th>state<th>why")
        for row in looks:
            why = [row.why] if row.why else []
            for task, had in (row.result or {"tasks": {}})["tasks"].items():
                why += [f"{task}: {had['why']}"] if had["state"] == "tampered" else []
            why += (row.result or {"look": []})["look"]
            lines = "<br>".join(html.escape(line) for line in dict.fromkeys(why))
            body.append(f"<tr><td>{html.escape(row.student)}<td>{row.state}<td>{lines}")
        body.append("</table>")
    body += _changes(found)
    body += _misconceptions(unit, found)
    if alike:
        body.append(
            "<h2>Alike beyond chance</h2>\n<p>The same beyond renaming, where few others wrote so: a hint, and "
        )
        body.append("no more.</p>\n<table><tr><th>student<th>student<th>bits<th>tasks")
        for pair in alike[:50]:
            names = f"{html.escape(pair.first)}<td>{html.escape(pair.second)}"
            body.append(f"<tr><td>{names}<td class=number>{pair.bits:.1f}<td>{html.escape(', '.join(pair.tasks))}")
        body.append("</table>")
    body.append("<h2>Everybody</h2>\n<table><tr><th>student<th>name<th>state<th>points<th>seconds<th>notes")
    for row in found:
        notes = "; ".join([*([row.why] if row.why else []), *(row.result or {"notes": []})["notes"]])
        seconds = _number(row.result["seconds"]) if row.result else "–"
        cells = [html.escape(row.student), html.escape(row.name), row.state]
        body.append(
            f"<tr><td>{'<td>'.join(cells)}<td class=number>{_number(row.points)}<td class=number>{seconds}"
            f"<td>{html.escape(notes)}"
        )
    body.append("</table>")
    if told:
        body.append(
            "<h2>What else lay there</h2>\n<ul>" + "".join(f"<li>{html.escape(line)}" for line in told) + "</ul>"
        )
    return _page(f"{unit}: the class", body)


def _changes(found: Sequence[Row]) -> list[str]:
    """Whose points are no longer what they were when they were first given, and why."""
    rows = []
    for row in found:
        for change in (row.result or {}).get("changes", []):
            points = f"{_number(change['before'])} → {_number(change['after'])}"
            cells = [html.escape(row.student), html.escape(change["task"]), points, html.escape(change["why"])]
            rows.append(f"<tr><td>{'<td>'.join(cells)}")
    head = "<table><tr><th>student<th>task<th>points<th>why"
    return ["<h2>Whose points changed</h2>", head, *rows, "</table>"] if rows else []


def _misconceptions(unit: str, found: Sequence[Row]) -> list[str]:
    tasks = list(dict.fromkeys(task for task, _ in points(unit).values()))
    failed: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    for row in found:
        for task, had in row.result["tasks"].items() if row.result and row.state != "unread" else ():
            if had["state"] in ("part", "not yet"):
                check = f"the check '{had['check']}'" if had["check"] else "an error, or not reached"
                failed[task][had["mistake"] or f"no known misconception: {check}"] += 1
    body = [
        "<h2>Which task fails, and with which misconception</h2>",
        "<table><tr><th>task<th>failed<th>misconception<th>times",
    ]
    for task in sorted(tasks, key=lambda task: (-sum(failed[task].values()), tasks.index(task))):
        for number, (says, times) in enumerate(sorted(failed[task].items(), key=lambda item: (-item[1], item[0]))):
            head = f"{html.escape(task)}<td class=number>{sum(failed[task].values())}" if number == 0 else "<td>"
            body.append(f"<tr><td>{head}<td>{html.escape(says)}<td class=number>{times}")
        if not failed[task]:
            body.append(f"<tr><td>{html.escape(task)}<td class=number>0<td><td>")
    return [*body, "</table>"]


def put(
    course: Path, unit: str, found: Sequence[Row], told: Sequence[str], late: Late, alike: Sequence[Pair] = ()
) -> Path:
    """Write all pages of a unit; the teacher's path."""
    for row in found:
        if row.result is not None:
            write(course / "feedback" / row.student / unit / f"{unit}.html", feedback(unit, row, late))
    path = course / "grades" / f"{unit}.html"
    write(path, teacher(unit, found, told, alike))
    return path

"""Submissions are found and read wherever they lie, and what cannot be read becomes a sentence."""

import os
import struct
import subprocess
import sys
import time
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.classroom import hostile
from tools.grade import clean as cleaning
from tools.grade import exports, intake
from tools.grade.clean import clean
from tools.grade.exports import Unreadable, safe_name
from tools.grade.intake import Submission, class_list, gather
from tools.notebooks import grade_id, is_check, read, solution

UNIT = "00_start_here"
BOOK = hostile.raw(hostile.solved(UNIT))


def hand_in(course: Path, student: str, content: bytes = BOOK, name: str = f"{UNIT}.ipynb") -> Path:
    path = course / "submitted" / student / UNIT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(course: Path, *units: str) -> dict[str, Submission]:
    return {submission.student: submission for submission in gather(course, units or [UNIT])[0]}


# Cleaning


@pytest.mark.parametrize("case", hostile.tidy(UNIT), ids=lambda case: case.name)
def test_a_notebook_is_graded_by_its_answers_whatever_was_done_to_it(case: hostile.Case) -> None:
    if case.outcome == "unread":
        with pytest.raises(Unreadable, match=case.note):
            clean(case.make(), UNIT)
        return
    cleaned = clean(case.make(), UNIT)
    assert any(case.note in note for note in cleaned.notes) if case.note else True, cleaned.notes
    ours = {grade_id(cell): cell.source for cell in read(solution(UNIT)).cells if is_check(cell)}
    checks = [cell for cell in cleaned.cells if is_check(cell)]
    assert {grade_id(cell): cell.source for cell in checks} == ours, "every check, as the teacher has it"
    assert len(checks) == len(ours), "and once"
    assert bool(cleaned.blank) == (case.outcome == "none")


def test_an_honest_notebook_gets_no_note() -> None:
    assert clean(BOOK, UNIT).notes == []
    assert clean(hostile.raw(hostile.blank(UNIT)), UNIT).notes == []


def test_the_notebook_of_another_unit_is_named() -> None:
    with pytest.raises(Unreadable, match="but of 01_cost"):
        clean(hostile.raw(hostile.blank("01_cost")), UNIT)


def test_a_notebook_of_too_many_lines_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "LINES", 10)
    with pytest.raises(Unreadable, match="lines"):
        clean(BOOK, UNIT)


def test_marks_of_a_merge_without_an_end_are_read_in_one_pass() -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable, match="merge"):
        clean(b"<<<<<<< a\n" * 200_000 + b">>>>>>> b\n", UNIT)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_a_notebook_is_read_in_whatever_it_is_written(encoding: str) -> None:
    assert clean(BOOK.decode().encode(encoding), UNIT).notes == [f"the file is written in {encoding}"]


# As nbgrader lays them out


def test_the_folders_of_nbgrader_are_read(tmp_path: Path) -> None:
    hand_in(tmp_path, "ada")
    hand_in(tmp_path, "bo", name=f"{UNIT}-Copy1.ipynb")
    (tmp_path / "submitted" / "ada" / UNIT / "timestamp.txt").write_text("2026-11-01 12:00:00 UTC\n")
    (tmp_path / "submitted" / "ada" / UNIT / "submission_secret.txt").write_text("of the exchange")
    (tmp_path / "submitted" / "cy" / UNIT).mkdir(parents=True)
    people = found(tmp_path)
    assert people["ada"].raw == BOOK
    assert people["ada"].when == "2026-11-01 12:00:00 UTC"
    assert not people["ada"].notes
    assert people["bo"].raw == BOOK
    assert people["bo"].notes == [f"the notebook is called {UNIT}-Copy1.ipynb"]
    assert people["cy"].why_not == "no notebook was handed in"


def test_a_folder_with_a_name_of_another_system_is_graded_under_one_that_all_can_have(tmp_path: Path) -> None:
    of_a_mac = unicodedata.normalize("NFD", "Zoë")
    for student in ("Ada Lovelace", of_a_mac, "bo"):
        hand_in(tmp_path, student)
    (tmp_path / "students.csv").write_text(f"student\nAda Lovelace\n{of_a_mac}\nbo\n", encoding="utf-8")
    submissions, told = gather(tmp_path, [UNIT])
    people = {submission.student: submission for submission in submissions}
    assert set(people) == {"Ada-Lovelace", unicodedata.normalize("NFC", "Zoë"), "bo"}
    assert {person.raw for person in people.values()} == {BOOK}
    assert people["Ada-Lovelace"].notes == ["the student's folder is called Ada Lovelace"]
    assert not people["bo"].notes
    assert told == [], "the class list calls them the same"


def test_of_two_folders_that_would_have_one_name_the_second_is_told_of(tmp_path: Path) -> None:
    hand_in(tmp_path, "Ada Lovelace", BOOK + b" ")
    hand_in(tmp_path, "Ada-Lovelace")
    hand_in(tmp_path, "Ada  Lovelace", BOOK + b"  ")
    submissions, told = gather(tmp_path, [UNIT])
    assert [(person.student, person.raw) for person in submissions] == [("Ada-Lovelace", BOOK)]
    assert told == [
        f"submitted/{name}: not taken, its name would be that of submitted/Ada-Lovelace"
        for name in ("Ada  Lovelace", "Ada Lovelace")
    ]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"2026-11-20 23:59:00.000000 CET\n", "2026-11-20 23:59:00.000000 CET"),
        (b"yesterday", "yesterday"),
        (b"\n", "it is empty"),
        (b"\xff\xff", "it is no text"),
        (b"1" * 201, "timestamp.txt has more than 200 bytes"),
    ],
)
def test_a_time_that_cannot_be_read_is_noted(tmp_path: Path, raw: bytes, says: str) -> None:
    hand_in(tmp_path, "ada", raw, "timestamp.txt")
    hand_in(tmp_path, "ada")
    assert found(tmp_path)["ada"].notes == [f"timestamp.txt could not be read: {says}; lateness is not known"]


@pytest.mark.parametrize("zone", ["", " UTC", " GMT", "+01:00", " -03", " +0100", "Z"])
def test_a_time_that_can_be_read_is_not_noted(tmp_path: Path, zone: str) -> None:
    hand_in(tmp_path, "ada", f"2026-11-20 23:59:00.000000{zone}\n".encode(), "timestamp.txt")
    hand_in(tmp_path, "ada")
    assert found(tmp_path)["ada"].notes == []


def test_a_zip_in_a_folder_of_nbgraders_is_looked_into_where_no_notebook_lies_beside_it(tmp_path: Path) -> None:
    whole = hostile.zipped({f"work/{UNIT}.ipynb": BOOK, "work/data.csv": b"1", "more.zip": b"no zip"})
    hand_in(tmp_path, "ada", whole, "work.zip")
    hand_in(tmp_path, "bo", whole, "work.zip")
    hand_in(tmp_path, "bo", BOOK + b" ", "mine.ipynb")
    hand_in(tmp_path, "cy", whole[:-9], "work.zip")
    hand_in(tmp_path, "di", hostile.zipped({}), "work.zip")
    people = found(tmp_path)
    assert people["ada"].raw == BOOK
    assert people["ada"].notes == ["other files, not used: work.zip/work/data.csv, work.zip/more.zip"]
    assert people["bo"].raw == BOOK + b" "
    assert people["bo"].notes == ["the notebook is called mine.ipynb", "other files, not used: work.zip"]
    assert "work.zip cannot be read" in people["cy"].why_not
    assert people["di"].why_not == "no notebook was handed in, but work.zip"


def test_a_zip_in_a_folder_of_nbgraders_has_the_limits_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "LARGEST", 2 * len(BOOK))
    monkeypatch.setattr(exports, "LARGEST_INNER", 4 * len(BOOK))
    hand_in(tmp_path, "ada", hostile.zipped({f"{UNIT}.ipynb": b" " * (3 * len(BOOK))}), "work.zip")
    hand_in(tmp_path, "bo", hostile.zipped({f"{UNIT}.ipynb": b" " * (5 * len(BOOK))}), "work.zip")
    hand_in(tmp_path, "cy", hostile.zipped({f"../{UNIT}.ipynb": BOOK}), "work.zip")
    people = found(tmp_path)
    assert all("unpacks to more than" in people[name].why_not for name in ("ada", "bo"))
    assert "no notebook" in people["cy"].why_not
    assert any("leads out of the zip" in note for note in people["cy"].notes)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")
def test_no_link_is_followed_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(BOOK)
    for student in ("a", "b", "c", "d"):
        (tmp_path / "submitted" / student).mkdir(parents=True)
    for student in ("a", "b", "d"):
        (tmp_path / "submitted" / student / UNIT).mkdir()
    os.symlink(secret, tmp_path / "submitted" / "a" / UNIT / f"{UNIT}.ipynb")
    os.mkfifo(tmp_path / "submitted" / "b" / UNIT / f"{UNIT}.ipynb")
    os.symlink(tmp_path / "submitted" / "a" / UNIT, tmp_path / "submitted" / "c" / UNIT)
    os.symlink("/", tmp_path / "submitted" / "d" / UNIT / "all")
    os.symlink(tmp_path, tmp_path / "submitted" / "e")
    people = found(tmp_path)
    assert "is a link" in people["a"].why_not
    assert "no plain file" in people["b"].why_not
    assert "is a link" in people["c"].why_not
    assert "no notebook" in people["d"].why_not
    assert "e" not in people
    assert not any(person.raw for person in people.values())


def test_other_files_are_noted_and_not_used(tmp_path: Path) -> None:
    hand_in(tmp_path, "ada")
    hand_in(tmp_path, "ada", b"import os", "torch.py")
    hand_in(tmp_path, "ada", b"pass", "checks_start_here.py")
    hand_in(tmp_path, "ada", BOOK, "old/older.ipynb")
    assert found(tmp_path)["ada"].notes == [
        "other notebooks, not graded: old/older.ipynb",
        "other files, not used: torch.py",
    ]


def test_of_several_notebooks_that_could_be_meant_none_is_taken(tmp_path: Path) -> None:
    hand_in(tmp_path, "ada", name="mine.ipynb")
    hand_in(tmp_path, "ada", name="final.ipynb")
    assert "several notebooks" in found(tmp_path)["ada"].why_not


def test_a_single_notebook_is_a_class_of_one(tmp_path: Path) -> None:
    path = tmp_path / "ada.ipynb"
    path.write_bytes(BOOK)
    assert found(path)["ada"].raw == BOOK


def test_a_folder_that_holds_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="collect"):
        gather(tmp_path, [UNIT])


# In a zip


def test_a_zip_of_canvas_is_read(tmp_path: Path) -> None:
    names = {
        f"lovelaceada_1234_777_{UNIT}.ipynb": BOOK,
        f"noetheremmy_LATE_88_778_{UNIT}-2.ipynb": BOOK,
        "hopper_9_779_notes.txt": b"hello",
        "turing_10_780_work.zip": hostile.zipped({f"work/{UNIT}.ipynb": BOOK}),
    }
    (tmp_path / "submissions.zip").write_bytes(hostile.zipped(names))
    people = found(tmp_path)
    ada, emmy = people["lovelaceada-1234"], people["noetheremmy-88"]
    assert (ada.raw, ada.number, ada.late, ada.origin) == (BOOK, "1234", False, "canvas")
    assert emmy.late
    assert emmy.raw == BOOK
    assert "no notebook" in people["hopper-9"].why_not
    assert people["turing-10"].raw == BOOK


def test_a_zip_of_moodle_is_read_and_the_class_list_gives_the_names(tmp_path: Path) -> None:
    names = {
        f"Ada Lovelace_1234_assignsubmission_file_/{UNIT}.ipynb": BOOK,
        f"Emmy Noether_88_assignsubmission_file/{UNIT}.ipynb": BOOK,
        f"Grace Hopper_9_assignsubmission_file_{UNIT}.ipynb": BOOK,
        "Grace Hopper_9_assignsubmission_onlinetext_/onlinetext.html": b"<p>hello</p>",
    }
    (tmp_path / f"class-{UNIT}.zip").write_bytes(hostile.zipped(names))
    (tmp_path / "students.csv").write_text("student,moodle\nada,1234\n")
    people = found(tmp_path, UNIT, "01_cost")
    assert set(people) == {"ada", "Emmy-Noether-88", "Grace-Hopper-9"}
    assert all(person.raw == BOOK for person in people.values())
    assert people["Grace-Hopper-9"].notes == ["other files, not used: onlinetext.html"]


@pytest.mark.parametrize("file", [f"1234567_{UNIT}.ipynb", f"2026_11_{UNIT}.ipynb"])
def test_a_file_of_moodles_whose_name_begins_with_numbers_is_its_students(tmp_path: Path, file: str) -> None:
    names = {
        f"Grace Hopper_9_assignsubmission_file_{file}": BOOK,
        f"Emmy Noether_88_assignsubmission_file_{UNIT}.ipynb": BOOK,
        "1_2_notes.txt": b"a teacher's",
    }
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    people = found(tmp_path)
    assert people["Grace-Hopper-9"].raw == BOOK
    assert (people["Grace-Hopper-9"].number, people["Grace-Hopper-9"].name) == ("9", "Grace Hopper")
    assert people["Grace-Hopper-9"].origin == "moodle"


def test_nobody_hands_in_for_another_by_a_name_of_moodles_in_canvas(tmp_path: Path) -> None:
    names = {
        f"eve_6_70_Bo_9_assignsubmission_file_{UNIT}.ipynb": BOOK,
        f"ada_1_71_{UNIT}.ipynb": BOOK,
    }
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    (tmp_path / "students.csv").write_text("student,canvas,moodle\neve,6,8\nbo,7,9\nada,1,10\n")
    assert set(found(tmp_path)) == {"eve", "ada"}


def test_nothing_leads_out_of_a_zip(tmp_path: Path) -> None:
    names = {f"../../a_1_2_{UNIT}.ipynb": BOOK, f"/b_1_2_{UNIT}.ipynb": BOOK, f"C:\\c_1_2_{UNIT}.ipynb": BOOK}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    submissions, told = gather(tmp_path, [UNIT])
    assert submissions == []
    assert sum("leads out" in line for line in told) == 3


def test_a_link_in_a_zip_is_not_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
        info = zipfile.ZipInfo(f"ada_1_2_{UNIT}.ipynb")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "is a link" in found(tmp_path)["ada-1"].why_not


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path: Path) -> None:
    bomb = hostile.zipped({f"ada_1_2_{UNIT}.ipynb": b" " * (65 * 2**20), f"bo_2_3_{UNIT}.ipynb": BOOK})
    (tmp_path / "class.zip").write_bytes(bomb)
    people = found(tmp_path)
    assert "unpacks to more than" in people["ada-1"].why_not
    assert people["bo-2"].raw == BOOK


def test_a_damaged_zip_does_not_stop_the_others(tmp_path: Path) -> None:
    whole = hostile.zipped({f"ada_1_2_{UNIT}.ipynb": BOOK})
    (tmp_path / "a.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.zip").write_bytes(whole)
    flipped = bytearray(whole)
    flipped[120] ^= 255
    (tmp_path / "c.zip").write_bytes(bytes(flipped).replace(b"ada_1", b"bob_2"))
    marked = bytearray(whole.replace(b"ada_1", b"cyd_3"))
    for at in (6, whole.rindex(b"PK\x01\x02") + 8):
        marked[at : at + 2] = struct.pack("<H", 1)  # says that it is encrypted
    (tmp_path / "d.zip").write_bytes(bytes(marked))
    submissions, told = gather(tmp_path, [UNIT])
    people = {submission.student: submission for submission in submissions}
    assert any("a.zip" in line for line in told)
    assert people["ada-1"].raw == BOOK
    assert not people["bob-2"].raw
    assert people["bob-2"].why_not
    assert "cannot be read" in people["cyd-3"].why_not


def test_a_student_who_handed_in_twice_is_told_of(tmp_path: Path) -> None:
    hand_in(tmp_path, "ada")
    (tmp_path / "class.zip").write_bytes(hostile.zipped({f"ada/{UNIT}/{UNIT}.ipynb": BOOK}))
    submissions, told = gather(tmp_path, [UNIT])
    assert len(submissions) == 1
    assert any("twice" in line for line in told)


def test_a_zip_that_a_student_handed_in_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "LARGEST_INNER", 3 * len(BOOK))
    inner = {
        "long": hostile.zipped({"-" * 60_000 + ".ipynb": BOOK}),
        "many": hostile.zipped({f"{number}.ipynb": BOOK + b" " * number for number in range(9)}),
        "deep": hostile.zipped({"more.zip": hostile.zipped({f"{UNIT}.ipynb": BOOK})}),
    }
    names = {f"{name}_{at}_1_work.zip": raw for at, (name, raw) in enumerate(inner.items())}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names | {f"bo_9_1_{UNIT}.ipynb": BOOK}))
    submissions, told = gather(tmp_path, [UNIT])
    people = {submission.student: submission for submission in submissions}
    assert any("60006 letters" in line for line in told)
    assert "several notebooks" in people["many-1"].why_not
    assert "no notebook" in people["deep-2"].why_not, "one zip in a zip, and no more"
    assert people["bo-9"].raw == BOOK


@pytest.mark.parametrize(
    "form",
    [
        *("{who}_{at}_1_{file}", "{who}_{at}_assignsubmission_file_/{file}", "{who}/{file}"),
        *("all/{who}_{at}_1_{file}", "all/{who}/{file}", "submitted/{who}/" + UNIT + "/{file}"),
    ],
)
def test_what_one_student_handed_in_takes_nothing_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(exports, "LARGEST_INNER", 4 * len(BOOK))
    monkeypatch.setattr(intake, "LARGEST_ZIP", 8 * len(BOOK))
    zeros = hostile.zipped({f"{at}.ipynb": bytes(len(BOOK)) for at in range(4)})
    whole = hostile.zipped({f"{UNIT}.ipynb": BOOK})
    handed_in = [("ada", f"{at}.zip", zeros) for at in range(9)] + [("ada", "work.zip", whole)]
    handed_in += [("bo", "work.zip", whole), ("cy", f"{UNIT}.ipynb", BOOK)]
    names = {form.format(who=who, at="abc".index(who[0]) + 1, file=file): content for who, file, content in handed_in}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    people = {name.split("-")[0]: person for name, person in found(tmp_path).items()}
    assert set(people) == {"ada", "bo", "cy"}
    assert "unpacks to more than" in people["ada"].why_not
    assert not people["ada"].raw
    assert people["bo"].raw == people["cy"].raw == BOOK


def test_no_more_of_a_zip_is_held_than_counts(tmp_path: Path) -> None:
    large = 4 * exports.MIB
    zeros = hostile.zipped({f"{at}.ipynb": bytes(large) for at in range(8)})
    names = {f"ada_1_{at}_work.zip": zeros for at in range(4)} | {f"ada_1_9_{UNIT}.ipynb": BOOK}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    tracemalloc.start()
    try:
        assert found(tmp_path)["ada-1"].raw == BOOK
        assert tracemalloc.get_traced_memory()[1] < 3 * large
    finally:
        tracemalloc.stop()


def test_where_notebooks_are_too_many_to_hold_the_largest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LARGEST_ZIP", 3 * len(BOOK))
    names = {f"{who}_{at}_1_{UNIT}.ipynb": BOOK for at, who in enumerate(["bo", "cy"])}
    names = {f"ada_9_1_{UNIT}.ipynb": BOOK * 2} | names | {f"di_8_1_{UNIT}.ipynb": BOOK + b" "}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    people = found(tmp_path)
    assert [name for name, person in people.items() if person.raw] == ["bo-0", "cy-1"]
    assert all("one of the largest" in people[name].why_not for name in ("ada-9", "di-8"))


def test_what_canvas_makes_of_names(tmp_path: Path) -> None:
    names = {
        f"müllerjörg_1_70_{UNIT}.ipynb": BOOK,
        f"obrienpat_2_71_{UNIT}-1.ipynb": BOOK,  # Canvas leaves out what is no letter
        f"smithann_3_72_{UNIT}.ipynb": BOOK,
        f"smithann_LATE_4_73_{UNIT}.ipynb": BOOK,  # another of this name
        f"van_derlaan_5_74_{UNIT}.ipynb": BOOK,
        f"projectgroup1_6_75_{UNIT}.ipynb": BOOK,  # a group's, under the number of the one who handed in
        f"anon_x7Kf2_76_{UNIT}.ipynb": BOOK,
        f"LATE_anon_a1B2c_77_{UNIT}.ipynb": BOOK,
        "typedtom_8_text.html": b"<p>here</p>",
    }
    (tmp_path / "submissions.zip").write_bytes(hostile.zipped(names))
    (tmp_path / "students.csv").write_text("student,canvas,group\neve,6,g\nfay,10,g\n", encoding="utf-8")
    people = found(tmp_path)
    assert set(people) == {
        *("müllerjörg-1", "obrienpat-2", "smithann-3", "smithann-4", "van_derlaan-5", "eve", "anon_x7Kf2"),
        *("anon_a1B2c", "typedtom-8"),
    }
    assert [name for name, person in people.items() if person.late] == ["anon_a1B2c", "smithann-4"]
    assert not people["anon_x7Kf2"].number, "no number of a student's"
    assert people["typedtom-8"].why_not == "no notebook was handed in, but text.html"
    assert all(person.raw == BOOK for name, person in people.items() if name != "typedtom-8")


def test_the_latest_upload_of_a_name_counts(tmp_path: Path) -> None:
    names = {f"ada_1_7{at}_{UNIT}{more}.ipynb": BOOK + b" " * at for at, more in enumerate(["", "-1", "-2"])}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    assert found(tmp_path)["ada-1"].raw == BOOK + b"  "


def test_what_moodle_makes_of_names(tmp_path: Path) -> None:
    names = {
        f"Group A-Jörg Müller_1_assignsubmission_file_/{UNIT}.ipynb": BOOK,
        f"Pat OBrien_2_assignsubmission_file_/work/{UNIT}.ipynb": BOOK,
        f"Participant_3_assignsubmission_file_{UNIT}.ipynb": BOOK,
        f"Ann Smith_4_assignsubmission_file_/{UNIT}.ipynb": BOOK,
        f"Ann Smith_5_assignsubmission_file_/{UNIT}.ipynb": BOOK,
    }
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    people = found(tmp_path)
    assert {person.number for person in people.values()} == set("12345")
    (tmp_path / "class.zip").write_bytes(
        hostile.zipped(
            {
                f"Team A_17_assignsubmission_file/{UNIT}.ipynb": BOOK,
                f"Default group_assignsubmission_file/{UNIT}.ipynb": BOOK,
            }
        )
    )
    (tmp_path / "students.csv").write_text("student,moodle,group\nada,17,\nbo,18,Team A\ncy,19,Team A\n")
    teams = found(tmp_path)
    assert {name: person.number for name, person in teams.items()} == {"Team-A": "", "Default-group": ""}, (
        "a group's number is no person's"
    )
    assert set(people) >= {"Group-A-Jörg-Müller-1", "Participant-3", "Ann-Smith-4", "Ann-Smith-5"}
    assert all(person.raw == BOOK for person in people.values())


def test_a_zip_that_was_packed_again_in_a_folder_is_the_same(tmp_path: Path) -> None:
    names = {f"submissions/ada_1_70_{UNIT}.ipynb": BOOK, f"submissions/bo_LATE_2_71_{UNIT}.ipynb": BOOK}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    assert set(found(tmp_path)) == {"ada-1", "bo-2"}


@pytest.mark.parametrize("top", ["submissions", "class", "submitted", "class/submitted"])
@pytest.mark.parametrize("inside", ["", f"{UNIT}/"])
def test_one_folder_around_those_of_the_students_is_no_student(tmp_path: Path, top: str, inside: str) -> None:
    names = {f"{top}/{who}/{inside}{UNIT}.ipynb": BOOK for who in ("ada", "bo")}
    names |= {f"{top}/{name}": b"0" for name in (".DS_Store", "Thumbs.db", ".vscode/settings.json")}
    names |= {f"__MACOSX/{top}/ada/._{UNIT}.ipynb": b"0", ".DS_Store": b"0", f"{top}/ada/._x": b"0"}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    submissions, told = gather(tmp_path, [UNIT])
    assert [(person.student, person.raw, person.notes) for person in submissions] == [
        ("ada", BOOK, []),
        ("bo", BOOK, []),
    ]
    assert told == []


@pytest.mark.parametrize("zip_name", ["class", "ada"])
@pytest.mark.parametrize("asked", [UNIT, "02_gumbel"])
def test_a_students_folder_with_a_folder_for_each_unit_is_the_students(
    tmp_path: Path, zip_name: str, asked: str
) -> None:
    path = tmp_path / f"{zip_name}.zip"
    path.write_bytes(hostile.zipped({f"ada/{UNIT}/{UNIT}.ipynb": BOOK, "ada/01_cost/01_cost.ipynb": BOOK}))
    assert set(found(tmp_path, asked)) == {"ada"}


def test_a_folder_in_the_folder_of_the_only_student_is_no_student(tmp_path: Path) -> None:
    (tmp_path / "class.zip").write_bytes(hostile.zipped({f"ada/work/{UNIT}.ipynb": BOOK}))
    assert set(found(tmp_path)) == {"ada"}


def test_two_folders_of_a_zip_are_two_people(tmp_path: Path) -> None:
    names = {f"A B/{UNIT}.ipynb": BOOK, f"A-B/{UNIT}.ipynb": BOOK + b" "}
    (tmp_path / "class.zip").write_bytes(hostile.zipped(names))
    submissions, told = gather(tmp_path, [UNIT])
    assert [(person.student, person.raw) for person in submissions] == [("A-B", BOOK)]
    assert any("would have one name" in line for line in told)


def test_a_class_list_may_come_out_of_a_spreadsheet_and_names_nobody_twice(tmp_path: Path) -> None:
    path = tmp_path / "students.csv"
    path.write_bytes("student;name;canvas\r\njm;Jörg Müller;1\r\n".encode("cp1252"))
    assert class_list(tmp_path) == [{"student": "jm", "name": "Jörg Müller", "canvas": "1"}]
    for text in ("student\nada\nada\n", "student,canvas\nada,1\nbo,1\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="2 times"):
            class_list(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="names and folders of Linux")
def test_no_name_and_no_depth_of_folders_stops_a_class(tmp_path: Path) -> None:
    hand_in(tmp_path, "bo")
    strange = os.fsencode(tmp_path / "submitted") + b"/\xff" + f"/{UNIT}".encode()
    os.makedirs(strange)
    hand_in(tmp_path, "漢" * 84)
    at = os.open(hand_in(tmp_path, "ada").parent, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        submissions, told = gather(tmp_path, [UNIT])
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "submitted" / "ada"], check=True)  # pytest could not
    assert [person.student for person in submissions] == ["ada", "bo", "漢" * 40]
    assert any("folders within" in note for note in submissions[0].notes)
    assert sum("no student can have this name" in line for line in told) == 1


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *[("Ada Lovelace", "Ada-Lovelace"), ("../x", "x"), ("..", ""), ("a/b\\c:d", "a-b-c-d"), ("Zoë", "Zoë")],
        *[("\n", ""), ("漢" * 99, "漢" * 40)],
    ],
)
def test_a_name_becomes_one_that_a_folder_can_have(given: str, name: str) -> None:
    assert safe_name(given) == name

"""Where a page's code chooses words, and by what: seen on pages of a few lines."""

import ast

import pytest

from tests.notebooks.live import chosen_words


def found(*cells: str) -> list[list[str]]:
    return chosen_words([ast.parse(cell) for cell in cells])


FROZEN = {
    "an f-string": ("print(f\"it is {'better' if a < b else 'worse'}\")", "a < b"),
    "words or nothing": ("print(f\"higher{'' if clear else ', not clear'}\")", "clear"),
    "a nested choice": ("word = 'yes' if a > b else 'no' if a < -b else 'unclear'", "a > b"),
    "long text": ("say('It helps ' f'by {a:.2f}.' if a > 0 else 'It does not help.')", "a > 0"),
    "a joined text": ("say('It helps by ' + str(a) if a > 0 else 'It does not help.')", "a > 0"),
    "branches that keep": ("if a < b:\n    word = 'better'\nelse:\n    word = 'worse'", "a < b"),
    "branches that show": ("if a < b:\n    print('better')\nelse:\n    print('worse')", "a < b"),
    "branches that append": ("if a < b:\n    told.append('better')\nelse:\n    told.append('worse')", "a < b"),
    "branches that return": (
        "def f(a):\n    if a < 0:\n        return 'better'\n    else:\n        return 'worse'",
        "a < 0",
    ),
    "branches that yield": (
        "def f(a):\n    if a < 0:\n        yield 'better'\n    else:\n        yield 'worse'",
        "a < 0",
    ),
    "a chain of branches": ("if a:\n    w = 'yes'\nelif b:\n    w = 'no'\nelse:\n    w = 'unclear'", "a"),
    "a dictionary": ("word = {True: 'yes', False: 'no'}[a < b]", "a < b"),
    "a pair": ("word = ('yes', 'no')[a < b]", "a < b"),
    "a product": ("word = 'hardly' * (a < b)", "a < b"),
    "a verdict": ("print(page.verdict(gap))", "gap"),
    "a function's parameter": ("def told(gap):\n    return 'more' if gap > 0 else 'less'\ntold(3)", "gap > 0"),
    "a number": ("word = 'all' if n == 3 else 'some'", "n == 3"),
}


@pytest.mark.parametrize(("code", "test"), FROZEN.values(), ids=FROZEN)
def test_words_chosen_by_a_fixed_number_are_found(code: str, test: str) -> None:
    assert test in found(code)[0]


SETTINGS = {
    "a name": "word = 'sparse' if kind == 'top-k' else 'dense'",
    "one of names": "word = 'sparse' if kind in ('top-k', 'random') else 'dense'",
    "nothing given": "word = 'all' if k is None else f'{k} of them'",
    "a beginning": "word = 'learned' if kind.startswith('top') else 'drawn'",
    "several of these": "word = 'masked' if kind == 'a' and not (way is None) else 'gathered'",
    "a legend once": "axes.plot(x, label='mean' if first > 0 else None)",
    "a plural": "word = f\"{n} row{'s' if n > 1 else ''}\"",
    "a colour": "axes.text(0, 0, '3', color='white' if value > 0.6 else 'black')",
    "a constant colour": "colour = plotting.RED if a < b else plotting.BLUE",
    "numbers": "n = 3 if a < b else 4",
    "a dictionary of names": "word = {True: 'with cache', False: 'without'}[cache]",
    "only a warning": "if a < b:\n    raise ValueError('too small')\nelse:\n    c = 'large'",
}


@pytest.mark.parametrize("code", SETTINGS.values(), ids=SETTINGS)
def test_a_choice_between_settings_is_no_conclusion(code: str) -> None:
    assert found(code) == [[]]


SAYS = "print('faster' if ratio.median < 1 else 'slower')"
LIVE = {
    "at once": ("print('fast' if timed(f).seconds[0] < 1 else 'slow')",),
    "a module's clock": ("print('fast' if time.perf_counter() < 1 else 'slow')",),
    "through names": ("timing = timed(f, g)\nratio = timing.ratio()", SAYS),
    "a part of a tuple": ("ratio, n = timed(f, g).ratio(), 3", SAYS),
    "a loop": ("rows = [timed(f, g).ratio() for _ in range(3)]", f"for ratio in rows:\n    {SAYS}"),
    "a zip": ("ratios = timed(f, g).samples", f"for name, ratio in zip(names, ratios):\n    {SAYS}"),
    "what was appended": ("rows = []\nrows.append(timed(f, g))\nratio = rows[0]", SAYS),
    "a place of a dictionary": ("rows = {}\nfor n in sizes:\n    rows[n] = timed(f)", "ratio = rows[3]", SAYS),
    "a function's result": ("def once():\n    start = perf_counter()\n    return start", "ratio = once()", SAYS),
    "a function's argument": (f"def show(ratio, name):\n    {SAYS}", "show(timed(f).ratio(), 'a')"),
    "a named argument": (f"def show(name, *, ratio):\n    {SAYS}".replace("*, ", ""), "show('a', ratio=timed(f))"),
    "an inner function": (f"def outer():\n    ratio = timed(f)\n    def inner():\n        {SAYS}\n    inner()",),
    "a widget": (f"def show(ratio):\n    {SAYS}\nwidgets.interact(show, ratio=slider)",),
    "a verdict": ("print(page.verdict(timed(f, g).ratio(), zero=1.0))",),
}


@pytest.mark.parametrize("cells", LIVE.values(), ids=LIVE)
def test_words_may_follow_what_is_measured_here(cells: tuple[str, ...]) -> None:
    assert found(*cells) == [[] for _ in cells]


BACK = {
    "assigned anew": ("ratio = timed(f)", "ratio = study['ratio']", SAYS),
    "the name beside it": ("for ratio, t in zip(names, timed(f).seconds):\n    pass", SAYS),
    "the number of a round": ("for ratio, t in enumerate(timed(f).seconds):\n    pass", SAYS),
    "a key": ("rows = {}\nrows['a'] = timed(f)\nfor ratio, t in rows.items():\n    pass", SAYS),
    "local elsewhere": ("def f():\n    ratio = timed(g)\n    return 3", SAYS),
    "another argument": (f"def show(ratio, t):\n    {SAYS}", "show(3, timed(f))"),
    "a function that measures nothing": (
        "def mean(values):\n    return sum(values) / len(values)",
        "mean(timed(f).seconds)\nratio = mean(study['losses'])",
        SAYS,
    ),
}


@pytest.mark.parametrize("cells", BACK.values(), ids=BACK)
def test_what_only_stood_near_a_clock_is_not_live(cells: tuple[str, ...]) -> None:
    assert [test for tests in found(*cells) for test in tests] == ["ratio.median < 1"]

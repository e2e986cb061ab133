"""What runs in a submission's kernel before the learner's first cell; it needs nothing but Python's library.

It notes how the functions are that judge, and tells at every ``look`` which are no longer so. An audit hook, which no
Python code can take out, tells when a cell of the learner's looks into the frames of its callers, searches the memory,
writes to a function's code, or starts a process. ``keep`` and ``back`` note the names and bring them back, so that
hidden checks run last, and no text that a learner is shown can hold what they hold. ``end`` is called in the last line
of each check: without it a check did not come to its end, whatever a kernel says.

What it has to tell goes through a socket, each line behind a word that is drawn for each submission, comes in a file
that is gone before the first cell, and is never handed to a function that Python code could have put in the place of
another: all of it stands in closures, and who looks into these is told of.
"""

import builtins
import contextlib
import importlib
import os
import socket
import sys
import threading
import types
from collections.abc import Callable

SERIOUS = {
    "sys._getframe": "looks into the frames of its callers",
    "sys._current_frames": "looks into the frames of its callers",
    "object.__getattr__": "looks into frames, closures or code",
    "object.__setattr__": "writes to a function's code",
    "code.__new__": "makes code out of bytes",
    "compile": "gives its code the name of another's file",
    "function.__new__": "makes a function out of code",
    "gc.get_objects": "searches the memory",
    "gc.get_referrers": "searches the memory",
    "gc.get_referents": "searches the memory",
    "sys.settrace": "traces what runs",
    "sys.setprofile": "traces what runs",
    "sys.addaudithook": "listens to what runs",
    "ctypes.dlopen": "reaches below Python",
    "ctypes.dlsym": "reaches below Python",
    "ctypes.string_at": "reaches below Python",
    "ctypes.wstring_at": "reaches below Python",
    "ctypes.addressof": "reaches below Python",
    "ctypes.cdata": "reaches below Python",
}
LIGHT = {
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.exec": "starts a process",
    "os.fork": "starts a process",
    "os.kill": "sends a signal",
    "os.killpg": "sends a signal",
    "socket.connect": "wants the network",
    "socket.getaddrinfo": "wants the network",
    "open": "opens",
    "os.listdir": "lists",
    "os.scandir": "lists",
    "os.remove": "deletes",
}
INNER = {"tb_frame", "gi_frame", "cr_frame", "ag_frame", "f_back", "f_locals", "__closure__", "__globals__", "__code__"}
USED = ("os", "posixpath", "io", "time", "random", "threading", "weakref", "gc", "itertools", "functools", "operator")
"""Modules of the library whose functions a check may rest on, besides those that the checks themselves import."""
EQUAL = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__torch_function__")
VOICE = ("dynlib.checks", "dynlib.honest", "dynlib.causes", "dynlib.ways")
"""Modules that the checks of every unit rest on."""

COMPLETE = ("IPython's ", "torch.Tensor.", "dynlib.checks.Task.")
"""What gains nothing after the start: a new function there stands in front of one of a base class."""
LENIENT = (
    "<frozen os>",
    "inspect.py",
    "traceback.py",
    "pathlib.py",
    "shutil.py",
    "glob.py",
    "subprocess.py",
    "os.py",
    "socket.py",
)
"""Files of the library that do a thing for the one who calls them."""
HARMLESS = {
    *(("traceback.py", f"{what}_{part}") for what in ("print", "format") for part in ("exc", "exception", "tb")),
    *(("inspect.py", name) for name in ("signature", "getsource", "getsourcelines", "getdoc", "getfile")),
}
"""Functions of these that look into code or frames and hand out nothing but words, of what the learner gave them."""


def start(line: str, checks: str, voice: bool) -> types.ModuleType:
    """Begin to watch, and give a module with ``keep``, ``back``, ``look`` and ``end``."""
    sys.path.append(os.getcwd())
    # the compiler, which any optimiser loads, puts a function of its own in the place of torch's manual_seed
    voiced = ["torch._dynamo", *VOICE, checks]
    for name in voiced if voice else [checks]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with open(f"{line}.word", encoding="ascii") as file:
        word = file.read()
    os.remove(f"{line}.word")
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.connect(line)
    send, at, fstat, leave, text, lock = channel.sendall, channel.fileno(), os.fstat, os._exit, ascii, threading.RLock()
    own = fstat(at).st_ino

    def tell(*said: object) -> None:
        try:
            if fstat(at).st_ino != own:  # another stands where the line was
                leave(66)
            with lock:
                send((text([word, *said]) + "\n").encode())
        except OSError:
            leave(66)

    kept: dict[str, dict[str, object]] = {}
    shell = sys.modules["IPython"].get_ipython()
    space, module, kind = shell.user_ns, shell.user_module, type(shell)
    frame_of, thread_of, run = sys._getframe, sys.modules["_thread"].get_ident, kind.run_code.__code__
    thread, seen = thread_of(), set[str]()

    def amiss() -> list[str]:
        """What is wrong with who calls: a cell of IPython's own names, and nothing else, may."""
        frame = frame_of(2)
        caller = frame.f_back
        found, cells, above = list[str](), 0, caller
        while above is not None:
            cells, above = cells + (above.f_code is run), above.f_back
        direct = frame.f_code.co_name == "<module>" and caller is not None and caller.f_code is run
        if not direct or cells != 1 or thread_of() != thread:
            found.append("who calls the watch")
        named = type(shell) is kind and shell.user_ns is space and type(space) is dict
        if not named or shell.user_module is not module or vars(module) is not space or frame.f_globals is not space:
            found.append("the cells' names")
        if _modes():
            found.append("a mode of its own that stands before torch")
        return found

    def keep(name: str) -> None:
        if not amiss():
            kept[name] = dict(space)
            tell("keep", name)

    def back(name: str) -> None:
        if not amiss():
            space.clear()
            space.update(kept[name])
            tell("back", name)

    def end(word: str) -> None:
        if not amiss():
            tell("end", word)

    file = getattr(sys.modules.get(checks), "__file__", "")
    was, before, homes = state(checks, voice, shell), _kinds(), _homes()

    def look(name: str) -> None:
        seen.clear()  # what one task's answer was told of does not hide what the next one does
        now = state(checks, voice, shell)
        changed = amiss() + ["what an object of its own says that it equals"] * _equals(before, homes, file)
        changed += sorted(key for key, value in was.items() if now.get(key) != value)
        changed += sorted(key for key in now if key not in was and key.startswith(COMPLETE))
        for key in ("torch", "math", "dynlib", checks):  # names that the checks' cells use
            if key in space and key in sys.modules and space[key] is not sys.modules[key]:
                changed.append(f"the name {key}")
        tell("look", name, changed[:20])

    sys.addaudithook(_hook(tell, checks, seen, homes))
    room = types.ModuleType("_room")
    for function in (keep, back, look, end):
        setattr(room, function.__name__, function)
    tell("start", "")
    return room


def state(checks: str, voice: bool, shell: object) -> dict[str, object]:
    """What each function that judges is, by its name."""
    found: dict[str, object] = {}

    def note(name: str, value: object, deep: bool) -> None:
        found[name] = [id(value), *_inner(value)]
        if deep and isinstance(value, type):
            for kind in reversed(
                value.__mro__
            ):  # also what it inherits, which a function of its own would stand before
                for key, part in vars(kind).items():
                    if callable(part) or isinstance(part, staticmethod | classmethod | property):
                        found[f"{name}.{key}"] = [id(part), *_inner(part)]

    for module in ("torch", "dynlib"):
        if module in sys.modules:
            found[f"the module {module}"] = id(sys.modules[module])
    if "dynlib.checks" in sys.modules:
        found["dynlib.checks"] = id(getattr(sys.modules["dynlib"], "checks", None))
    found["__builtins__"] = id(getattr(shell, "user_ns", {}).get("__builtins__"))
    for module in (*VOICE, checks):
        if module in sys.modules:
            found[f"the module {module}"] = id(sys.modules[module])
            for name, value in list(vars(sys.modules[module]).items()):
                if name != "__builtins__":
                    note(f"{module}.{name}", value, getattr(value, "__module__", "") == module)
    for name, value in list(vars(builtins).items()):
        if callable(value) and name not in ("_", "exit", "quit", "input"):  # IPython sets these anew
            found[f"the built-in {name}"] = id(value)
    if voice and "torch" in sys.modules:
        torch = sys.modules["torch"]
        for place, holder in (
            ("torch", torch),
            ("torch.Tensor", torch.Tensor),
            ("torch's base of Tensor", torch.Tensor.__mro__[1]),
            ("torch.special", torch.special),
            ("torch.autograd", torch.autograd),
            ("torch.random", torch.random),
            ("torch.Generator", torch.Generator),
            ("torch.nn.functional", torch.nn.functional),
            ("torch.nn.Module", torch.nn.Module),
            ("torch.fft", torch.fft),
            ("torch.linalg", torch.linalg),
        ):
            for name, value in list(vars(holder).items()):
                if callable(value) and not isinstance(value, types.ModuleType):
                    found[f"{place}.{name}"] = [id(value), *_inner(value)]
    judges = [vars(sys.modules[name]) for name in (*VOICE, checks) if name in sys.modules]
    besides = {part.__name__ for judge in judges for part in list(judge.values()) if type(part) is types.ModuleType}
    besides -= {"torch", "sys"}  # torch is noted above, and sys changes with every cell
    for name in sorted({"math", "warnings", "contextlib", "signal", *USED, *besides}):
        for key, value in list(vars(sys.modules[name]).items()) if name in sys.modules else ():
            if callable(value):
                note(f"{name}.{key}", value, getattr(value, "__module__", "") == name)
    kinds = type(shell).__mro__
    for kind in kinds:
        for name, value in vars(kind).items():
            if isinstance(value, types.FunctionType):
                found[f"IPython's {kind.__name__}.{name}"] = [id(value), *_inner(value)]
    own = set(vars(shell)) & {name for kind in kinds for name, value in vars(kind).items() if callable(value)}
    found["IPython's own functions"] = sorted((name, id(vars(shell)[name])) for name in own if name != "showtraceback")
    if "showtraceback" in vars(shell):
        found["IPython's showtraceback here"] = id(vars(shell)["showtraceback"])
    manager, kernel = shell.input_transformer_manager, getattr(shell, "kernel", None)  # type: ignore[attr-defined]
    for what, holder in (("transformer", manager), ("compiler", getattr(shell, "compile", None)), ("kernel", kernel)):
        functions = {name for kind in type(holder).__mro__ for name, value in vars(kind).items() if callable(value)}
        found[f"IPython's {what}, functions of its own"] = sorted(
            (name, id(value)) for name, value in list(vars(holder).items()) if name in functions
        )
        for kind in type(holder).__mro__:
            for name, value in vars(kind).items():
                if isinstance(value, types.FunctionType):
                    found[f"IPython's {what} {kind.__name__}.{name}"] = [id(value), *_inner(value)]
    for name in ("cleanup_transforms", "line_transforms", "token_transformers"):
        found[f"IPython's {name}"] = [id(part) for part in getattr(manager, name, [])]
    for name in ("input_transformers_post", "ast_transformers", "custom_exceptions"):
        found[f"IPython's {name}"] = [id(part) for part in getattr(shell, name, [])]
    for name, calls in getattr(shell, "events").callbacks.items():  # noqa: B009
        found[f"IPython's event {name}"] = [
            id(call)
            for call in calls
            if not getattr(call, "__module__", "").startswith(("matplotlib", "IPython", "ipyk"))
        ]
    found["sys.meta_path"] = [id(part) for part in sys.meta_path if type(part).__module__ == "__main__"]
    return found


def _kinds() -> dict[int, type]:
    """All classes, by their ids: a class may say itself what it equals."""
    found: dict[int, type] = {id(type): type}
    left: list[type] = [object]
    while left:
        new = [kind for kind in type.__subclasses__(left.pop()) if id(kind) not in found]
        found.update((id(kind), kind) for kind in new)
        left += new
    return found


def _homes() -> tuple[str, ...]:
    """Where Python, its packages and the course stand, which may be below /tmp too."""
    home = [sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), "<frozen"]
    files = [getattr(sys.modules.get(name), "__file__", None) for name in ("dynlib", "torch")]
    return (*home, *(os.path.dirname(file) for file in files if file))


def _equals(before: dict[int, type], homes: tuple[str, ...], file: str) -> bool:
    """Whether a class of the learner's says itself what its objects equal, however its methods came by their names."""
    for number, kind in _kinds().items():
        if number not in before:
            space = type.__getattribute__(kind, "__dict__")
            if any(name in space and _of_a_cell(space[name], homes, file) for name in EQUAL):
                return True
    return False


def _of_a_cell(method: object, homes: tuple[str, ...], file: str) -> bool:
    if isinstance(method, staticmethod | classmethod):
        method = method.__func__
    if not isinstance(method, types.FunctionType):
        return False
    place = method.__code__.co_filename
    cell = os.path.basename(os.path.dirname(place)).startswith("ipykernel_")  # a cell's, wherever the system keeps them
    magic = ("<ipython-input", "<timed ", "<magic-timeit", "<prun")
    return (cell or place.startswith(("/tmp/", *magic))) and not place.startswith(homes) and place != file


def _modes() -> list[str]:
    """The modes that stand before torch's functions and that torch itself did not make."""
    found: list[str] = []
    for name, stack in (
        ("torch.overrides", "_get_current_function_mode_stack"),
        ("torch.utils._python_dispatch", "_get_current_dispatch_mode_stack"),
    ):
        for mode in getattr(sys.modules.get(name), stack, list)():
            kind = type(mode)
            home = sys.modules.get(kind.__module__) if kind.__module__ != "__main__" else None
            if getattr(home, kind.__name__, None) is not kind:
                found.append(kind.__name__)
    return found


def _inner(value: object) -> list[object]:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if not isinstance(value, types.FunctionType):
        return []
    cells = [id(cell.cell_contents) for cell in value.__closure__ or () if _filled(cell)]
    return [id(value.__code__), id(value.__defaults__), id(value.__kwdefaults__), cells]


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _hook(
    tell: Callable[..., None], checks: str, seen: set[str], homes: tuple[str, ...]
) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that tells of what the learner's own code does."""
    kinds, busy = SERIOUS | LIGHT, set[int]()
    frame_of, thread_of, real, text_of = sys._getframe, sys.modules["_thread"].get_ident, os.path.realpath, os.fsdecode
    sep = os.sep
    mine = ("<room>", getattr(sys.modules.get(checks), "__file__", "<room>"))
    free = (os.getcwd(), "/tmp", "/dev/null", "/dev/shm", *homes)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in kinds or (thread := thread_of()) in busy:
            return
        busy.add(thread)
        try:
            frame, helper = frame_of(1), None
            for _ in range(12):
                # open() of a cell is a function of IPython's, which opens for the cell
                if frame is None or not (
                    frame.f_code.co_filename.endswith(LENIENT) or frame.f_code.co_name == "_modified_open"
                ):
                    break
                frame, helper = frame.f_back, frame.f_code
            if frame is None or frame.f_code.co_filename.startswith(homes) or frame.f_code.co_filename in mine:
                return
            if event in ("object.__getattr__", "sys._getframe") and helper is not None:
                file = helper.co_filename
                if file.startswith(homes) and (file.rpartition(sep)[2], helper.co_name) in HARMLESS:
                    return
            if event == "object.__getattr__" and arguments[1] not in INNER:
                return
            if event == "compile" and not str(arguments[1]).startswith(homes) and str(arguments[1]) not in mine:
                return
            said, serious = kinds[event], event in SERIOUS
            if event in ("open", "os.listdir", "os.scandir", "os.remove"):
                path = real(text_of(arguments[0])) if isinstance(arguments[0], str | bytes) else ""
                if not path or path.startswith(free):
                    return
                serious = path.startswith("/proc/")
                said = "reaches below Python" if serious else f"{said} {path[:80]}"
            if said not in seen and (serious or len(seen) < 50):
                seen.add(said)
                tell("event", serious, said)
        finally:
            busy.discard(thread)

    return hook

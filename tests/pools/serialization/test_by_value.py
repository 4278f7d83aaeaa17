"""A script's definitions reach workers under any decorator: each row of one table, with every start method.

A row is a function of the script, called here and in a worker, and what it refers to. Each program runs in a process of
its own, as a user would run it.
"""

from __future__ import annotations

import subprocess
import sys

import cloudpickle
import pytest
import tasks

from poolagg.pools.serialization.by_value import is_found_by_name
from poolagg.pools.serialization.pickling import dumps_by_value

SCRIPT = '''
import abc, collections, contextlib, dataclasses, enum, functools, operator, struct, sys, threading, types, typing
import weakref
from poolagg import *

STEP = 1

@functools.cache
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@functools.lru_cache(maxsize=7, typed=True)
def even(n): return True if n == 0 else odd(n - 1)
@functools.lru_cache
def odd(n): return False if n == 0 else even(n - 1)

def cached(n): return fibonacci(n), fibonacci.cache_info().maxsize
def cached_each_other(n): return even(n), odd(n), even.cache_parameters(), even.__name__
def cached_partial(n): return partial(n)
partial = functools.partial(fibonacci)
cached_builtin = functools.cache(abs)
def of_a_builtin(n): return cached_builtin(-n)

def loud(f):
    @functools.wraps(f)
    def wrapper(*args): return f(*args), wrapper.__name__
    return wrapper

@loud
@functools.cache
def wrapped_cached(n): return n + STEP
@functools.cache
@loud
def cached_wrapped(n): return n + STEP
def both_ways(n): return wrapped_cached(n), cached_wrapped(n), cached_wrapped.__wrapped__(n)

@functools.singledispatch
def kind(x): """Doc."""; return "other"
@kind.register
def _(x: int): return "int"
@kind.register(list)
def _(x): return [kind(one) for one in x]
@kind.register
def _(x: collections.abc.Mapping): return {key: kind(value) for key, value in x.items()}
kind.extra = STEP
def dispatched(n): return kind([n, "a", {"k": n}]), kind(None), kind.__doc__, kind.extra, len(kind.registry)
def refused(n):
    try:
        kind()
    except TypeError as error:
        return str(error)

class Thing:
    def __init__(self, n): self.n = n
    @functools.cached_property
    def twice(self): "Doc."; return self.n * 2
    @functools.lru_cache(maxsize=None)
    def method(self): return self.n + STEP
    @staticmethod
    @functools.cache
    def static(x): return x + 5
    @classmethod
    @functools.cache
    def of_class(cls, x): return cls(x).n
    @functools.singledispatchmethod
    def describe(self, x): return "other"
    @describe.register
    def _(self, x: int): return "int"
    def add(self, a, b): return a + b + self.n
    add_one = functools.partialmethod(add, 1)

class Heir(Thing):
    @functools.cached_property
    def twice(self): return super().twice + 1

def of_things(n):
    one, heir = Thing(n), Heir(n)
    return one.twice, heir.twice, vars(one)["twice"], one.method(), Thing.static(n), Thing.of_class(n), one.add_one(2)
def described(n): return Thing(n).describe(n), Thing(n).describe(""), Thing.twice.__doc__

@functools.total_ordering
class Ordered:
    def __init__(self, n): self.n = n
    def __eq__(self, other): return self.n == other.n
    def __lt__(self, other): return self.n < other.n
def ordered(n): return Ordered(n) >= Ordered(n - 1), Ordered(n) > Ordered(n)

@dataclasses.dataclass(slots=True, frozen=True, order=True)
class Slotted:
    a: int
    b: list = dataclasses.field(default_factory=list)
    def more(self): return dataclasses.replace(self, a=self.a + STEP)
@dataclasses.dataclass(slots=True, frozen=True)
class SlottedHeir(Slotted):
    def more(self): return Slotted.more(self)
def slotted(n): return SlottedHeir(n).more().a, Slotted(n).more() > Slotted(n), Slotted(n).more().a, Slotted(n).b

class Flags(enum.Flag): A = enum.auto(); B = enum.auto()
class Texts(enum.StrEnum): X = enum.auto()
def enums(n): return (Flags.A | Flags.B).value, Texts.X, Texts("x").name

@typing.runtime_checkable
class Shouts(typing.Protocol):
    def shout(self): ...
class Base(abc.ABC):
    @abc.abstractmethod
    def shout(self): ...
class Loud(Base):
    def shout(self): return "!"
Base.register(int)
def protocols(n): return isinstance(Loud(), Shouts), isinstance(n, Base), Loud().shout(), isinstance(n, Shouts)

T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def __init__(self, x: T): self.x = x
UserId = typing.NewType("UserId", int)
class Row(typing.NamedTuple): a: int = 1
class Keys(typing.TypedDict): a: int
def generics(n): return Box[int](n).x, UserId(n), UserId.__name__, UserId.__supertype__, Row(n).a, Keys(a=n)

HEADER, TABLE = struct.Struct("<IQ"), types.MappingProxyType({"a": 1})
def values(n): return HEADER.pack(n, n), TABLE["a"]

local, weak, names = threading.local(), weakref.WeakKeyDictionary(), weakref.WeakValueDictionary()
known = weakref.WeakSet()
KEY = Thing(1)
weak[KEY], names["key"] = 1, KEY
known.add(KEY)
def weakly(n):
    local.n = n
    return local.n, weak[KEY], names["key"] is KEY, KEY in known

@contextlib.contextmanager
def opened(n): yield n
def managed(n):
    with opened(n) as m: return m

class Meta(type):
    def __call__(cls, *args): return super().__call__(*args)
class Made(metaclass=Meta): z = 1
class Hook:
    def __init_subclass__(cls, /, k=0, **more): cls.k = k
class Hooked(Hook, k=3): pass
class Named:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, instance, owner=None): return self.name
class HasNamed: field = Named()
def classes(n): return Made().z, Hooked.k, HasNamed().field

if sys.version_info >= (3, 12):
    exec("""
type Alias = list[int]
class Typed[T]:
    def same(self, x: T) -> T: return x
def same[T](x: T) -> T: return x
type Tree = list[Tree] | int
type Pair[A] = tuple[A, A]
type Unknown = NotThere
def depth(tree: Tree) -> int: return 1 + max(map(depth, tree), default=0) if isinstance(tree, list) else 0
def paired(x: Pair[int], y: Unknown = None) -> Pair[int]: return x, x
def new_syntax(n): return Typed[int]().same(n), same(n), depth([[n]]), paired(n), str(Tree), str(Tree.__value__)
""")

ROWS = [
    cached, cached_each_other, cached_partial, of_a_builtin, both_ways, dispatched, refused, of_things, described,
    ordered, slotted, enums, protocols, generics, values, weakly, managed, classes, fibonacci, kind, cached_wrapped,
    *([new_syntax] if sys.version_info >= (3, 12) else []),
]

def called(f): return f(4)

def run(method):
    failed = []
    def row(name, expected, make):
        try:
            found = make()
        except Exception as error:
            found = error
        if found != expected:
            failed.append((name, found, expected))
    with ProcessPool(2, start_method=method) as pool:
        for f in ROWS:
            name = getattr(f, "__name__", f)
            row(name, [f(4)], lambda: aggregate(f, [4], Collect(), pool=pool))
            row(f"closure {name}", [f(4)], lambda: aggregate(lambda x: f(x), [4], Collect(), pool=pool))
            row(f"item {name}", [f(4)], lambda: aggregate(called, [f], Collect(), pool=pool))
            shared = share({"f": f})
            row(f"share {name}", [f(4)], lambda: aggregate(lambda x: shared.value["f"](x), [4], Collect(), pool=pool))
        row("back", [True], lambda: [aggregate(lambda x: fibonacci, [4], Collect(), pool=pool)[0] is fibonacci])
        global STEP
        STEP = 100
        cached_wrapped.cache_clear()
        make = lambda: aggregate(cached_wrapped, [4], Collect(), pool=pool)
        row("a global that has changed", [cached_wrapped(4)], make)
    for one in failed:
        print(*one)
    print("done")
'''


@pytest.mark.parametrize("way", ["file", "-c", "exec"])
def test_every_row_of_a_script(method, way, tmp_path):
    "Called in a worker it gives what it gives here: as `func`, in a closure, as an item, and in what is shared."
    if way != "file" and method == "spawn":
        pytest.skip("as the others")
    program = f"{SCRIPT}\nrun({method!r})\n"
    (tmp_path / "script.py").write_text(program)
    # As a notebook does: text, run in the namespace of __main__, line for line without a file.
    cells = "import sys; exec(open('script.py').read(), sys.modules['__main__'].__dict__)"
    words = {"file": ["script.py"], "-c": ["-c", program], "exec": ["-c", cells]}[way]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=55, cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_what_a_module_has_goes_by_name():
    "So its cache is one for all jobs of a worker."
    assert is_found_by_name(tasks.cached_square)
    assert len(dumps_by_value(tasks.cached_square)) < 100
    cloudpickle.register_pickle_by_value(tasks)
    try:
        assert not is_found_by_name(tasks.cached_square)
        assert cloudpickle.loads(dumps_by_value(tasks.cached_square))(3) == 9
    finally:
        cloudpickle.unregister_pickle_by_value(tasks)

"""Programs that define a function `f`, in pairs that differ in one place; and their fingerprints in other processes.

A program is a place with a value in it. A value is an expression, or an expression in another that holds it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from paths import ROOT, SUPPORT

PREAMBLE = """
import abc, argparse, array, collections, configparser, contextlib, contextvars, ctypes, dataclasses, datetime, decimal
import enum, fractions, functools, itertools, logging, operator, os, pathlib, queue, random, re, socket, string, struct
import sys, threading, types, typing, uuid, weakref, zoneinfo
from types import SimpleNamespace
import numpy as np
import poolagg
from poolagg import Collect, Fold, Histogram, Sum, Top, per_worker, share, star, with_item

class Own:
    def __init__(self, k): self.k = k
    def method(self, x): return self.k
    def __call__(self, x): return self.k
    def __hash__(self): return 7
    def __eq__(self, other): return isinstance(other, Own) and self.k == other.k

class Slotted:
    __slots__ = ("k", "__hidden")
    def __init__(self, k): self.__hidden = k

class Derived(Slotted):
    __slots__ = ("k",)
    def __init__(self, k): self.k = 1; super().__init__(k)

class Deco:
    def __init__(self, func, k): self.k = k; functools.update_wrapper(self, func)
    def __call__(self, x): return self.k, self.__wrapped__(x)

class Listed(list): pass
class Mapped(dict): pass
class Bag(set): pass
class Frozen(frozenset): pass
class Text(str): pass
class Number(int): pass

class RunStatistics(collections.Counter):
    def __init__(self, k=0): super().__init__("ab"); self.k = k

class Stamp(datetime.date):
    pass

def stamped(k):
    stamp = Stamp(2020, 1, 1)
    stamp.k = k
    return stamp

class Pickled:
    def __init__(self, k): self.k, self.lock = k, threading.Lock()
    def __getstate__(self): return {"kept": self.k}

class Raising:
    def __init__(self, k): self.k = k
    def __reduce__(self): raise TypeError("not me")

class Circular:
    def __init__(self, k): self.k = k
    def __reduce__(self): return Circular, (self,)

class Single:
    def __init__(self, k): self.k = k
    def __reduce__(self): return "SINGLE"

class Asked:
    def __init__(self, k): self.k = k
    def __getattribute__(self, name): raise RuntimeError("no attribute is read")

class Zone(datetime.tzinfo):
    def __init__(self, hours): self.hours = hours
    def utcoffset(self, when): return datetime.timedelta(hours=self.hours)
    def dst(self, when): return datetime.timedelta(0)
    def tzname(self, when): return "zone"

def closed(file):
    file.close()
    return file

class Client:
    def __init__(self, pid): self.pid = pid

class Thread(threading.Thread):
    def __init__(self, k): super().__init__(); self.k = k

class Node:
    def __init__(self, k): self.k, self.parent, self.children = k, None, []
    def add(self, child): self.children.append(child); child.parent = self; return self

@dataclasses.dataclass
class Data:
    k: object = 1

@dataclasses.dataclass(frozen=True, slots=True)
class Fast:
    k: object

class Point(typing.NamedTuple):
    k: object

class Shade(enum.Enum):
    LIGHT = 1
    DARK = 2

class Rights(enum.Flag):
    READ = 1
    WRITE = 2

def config(text):
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser

def loop(k):
    found = [k]
    found.append(found)
    return found

def ring(*values):
    nodes = [Node(value) for value in values]
    for node, other in zip(nodes, nodes[1:] + nodes[:1]): node.next = other
    return nodes[0]

def decorated(k):
    def decorate(func):
        @functools.wraps(func)
        def wrapper(x): return k, func(x)
        return wrapper
    return decorate

def dispatched(k):
    @functools.singledispatch
    def d(x): return 0
    d.register(int, lambda x: k)
    d.register(collections.abc.Sized, lambda x: 1)
    d.dispatch(int)
    return d

def with_attribute(k):
    def function(x): return x
    function.k = k
    return function

def made(name, **defined): return type(name, (), defined)

def module(k):
    made = types.ModuleType("settings"); made.k = k
    return made

def objects(k):
    found = np.empty(2, dtype=object)
    found[1] = k
    return found

def masked(k): return np.ma.masked_array([1, 2], mask=[k, False])
"""

HASHABLE = {
    "an int": ("1", "2"),
    "an int and a float": ("1", "1.0"),
    "an int and a bool": ("1", "True"),
    "signs of zero": ("0.0", "-0.0"),
    "text": ("'a'", "'b'"),
    "bytes": ("b'a'", "b'b'"),
    "a tuple": ("(1, (2, 3))", "((1, 2), 3)"),
    "a frozenset": ("frozenset({'a', 'b'})", "frozenset({'a', 'c'})"),
    "a frozenset of frozensets": (
        "frozenset({frozenset({'a', 'b'}), frozenset({'c'})})",
        "frozenset({frozenset({'a'}), frozenset({'b', 'c'})})",
    ),
    "a subclass of frozenset": ("Frozen(['a', 'b'])", "Frozen(['a', 'c'])"),
    "a datetime": ("datetime.datetime(2020, 1, 1)", "datetime.datetime(2020, 1, 1, fold=1)"),
    "a tzinfo without a repr": (
        "datetime.datetime(2020, 1, 1, tzinfo=Zone(1))",
        "datetime.datetime(2020, 1, 1, tzinfo=Zone(2))",
    ),
    "a zone": ("zoneinfo.ZoneInfo('Europe/Berlin')", "zoneinfo.ZoneInfo('Europe/Paris')"),
    "a time": ("datetime.time(1, tzinfo=Zone(1))", "datetime.time(1, tzinfo=Zone(2))"),
    "a timedelta": ("datetime.timedelta(1)", "datetime.timedelta(2)"),
    "a Decimal": ("decimal.Decimal('1.0')", "decimal.Decimal('1.00')"),
    "a Fraction": ("fractions.Fraction(1, 3)", "fractions.Fraction(2, 3)"),
    "a UUID": ("uuid.UUID(int=1)", "uuid.UUID(int=2)"),
    "a path": ("pathlib.Path('a')", "pathlib.PurePosixPath('a')"),
    "a range": ("range(3)", "range(0, 3, 2)"),
    "a member of an enum": ("Shade.LIGHT", "Shade.DARK"),
    "a flag": ("Rights.READ | Rights.WRITE", "Rights.READ"),
    "a library's flag": ("re.A | re.I", "re.A | re.M"),
    "a pattern": ("re.compile('a')", "re.compile('a', re.I)"),
    "a named tuple": ("Point(1)", "Point(2)"),
    "a subclass of str": ("Text('a')", "Text('b')"),
    "a subclass and str": ("Text('a')", "'a'"),
    "a subclass of int": ("Number(1)", "Number(2)"),
    "a struct": ("struct.Struct('<i')", "struct.Struct('>i')"),
    "a builtin": ("abs", "len"),
    "a function of a module": ("operator.add", "operator.sub"),
    "a bound builtin": ("'a'.join", "'b'.join"),
    "a class": ("int", "float"),
    "a library's class": ("collections.Counter", "collections.OrderedDict"),
    "a library's function": ("np.mean", "np.median"),
    "a ufunc": ("np.add", "np.subtract"),
    "a type of numpy": ("np.float32", "np.float64"),
    "a dtype": ("np.dtype('f8')", "np.dtype('>f8')"),
    "a number of numpy": ("np.float32(1)", "np.float64(1)"),
    "a date of numpy": ("np.datetime64('2020-01-01')", "np.datetime64('2020-01-02')"),
    "a generic alias": ("list[int]", "list[str]"),
    "a union": ("int | None", "str | None"),
    "a method of random's own": ("random.random", "random.gauss"),
    "an ellipsis": ("...", "NotImplemented"),
    "an itemgetter": ("operator.itemgetter(1)", "operator.itemgetter(2)"),
    "a methodcaller": ("operator.methodcaller('a', b=1)", "operator.methodcaller('a', b=2)"),
    "an object without state": ("object()", "NotImplemented"),
}

VALUES = {
    **HASHABLE,
    "a list": ("[1, 2]", "[2, 1]"),
    "a list and a tuple": ("[1]", "(1,)"),
    "lists in a list": ("[[1], [2, 3]]", "[[1, 2], [3]]"),
    "a set": ("{'a', 'b', 'c'}", "{'a', 'b', 'd'}"),
    "a subclass of set": ("Bag(['a', 'b', 'c'])", "Bag(['a', 'b', 'd'])"),
    "a dict": ("{'a': 1, 'b': 2}", "{'a': 2, 'b': 1}"),
    "a dict of a set": ("{key: 1 for key in {'a', 'b', 'c'}}", "{key: 1 for key in {'a', 'b', 'd'}}"),
    "keys of many types": ("{1: 2, 'a': 3, (4, 5): 6}", "{1: 2, 'a': 3, (4, 6): 6}"),
    "an OrderedDict": (
        "collections.OrderedDict([('a', 1), ('b', 1)])",
        "collections.OrderedDict([('b', 1), ('a', 1)])",
    ),
    "a factory": ("collections.defaultdict(list)", "collections.defaultdict(set)"),
    "a Counter": ("collections.Counter('aab')", "collections.Counter('abb')"),
    "a deque": ("collections.deque([1], 3)", "collections.deque([1], 4)"),
    "keys": ("{'a': 1, 'b': 1}.keys()", "{'a': 1, 'c': 1}.keys()"),
    "a slice": ("slice(1, 2)", "slice(1, 3)"),
    "a bytearray": ("bytearray(b'a')", "bytearray(b'b')"),
    "a memoryview": ("memoryview(b'a')", "memoryview(b'b')"),
    "an iterator": ("iter([1, 2])", "iter([1, 3])"),
    "an array": ("array.array('i', [1, 2])", "array.array('i', [1, 3])"),
    "a ctypes array": ("(ctypes.c_int * 2)(1, 2)", "(ctypes.c_int * 2)(1, 3)"),
    "options": ("argparse.Namespace(threshold=1)", "argparse.Namespace(threshold=2)"),
    "a namespace": ("SimpleNamespace(a=1)", "SimpleNamespace(a=2)"),
    "a ChainMap": ("collections.ChainMap({'a': 1}, {'b': 2})", "collections.ChainMap({'a': 1}, {'b': 3})"),
    "a UserDict": ("collections.UserDict(a=1)", "collections.UserDict(a=2)"),
    "a mapping proxy": ("types.MappingProxyType({'a': 1})", "types.MappingProxyType({'a': 2})"),
    "a configuration": ("config('[a]\\nb = 1')", "config('[a]\\nb = 2')"),
    "a template": ("string.Template('$a')", "string.Template('$b')"),
    "a module made by hand": ("module(1)", "module(2)"),
    "a module": ("operator", "itertools"),
    "an exception": ("ValueError(1)", "ValueError(2)"),
    "random numbers": ("random.Random(1)", "random.Random(2)"),
    "a generator of numpy": ("np.random.default_rng(1)", "np.random.default_rng(2)"),
    "a partial": ("functools.partial(pow, 2)", "functools.partial(pow, 3)"),
    "a partial's keywords": ("functools.partial(dict, a=1)", "functools.partial(dict, a=2)"),
    "a partialmethod": ("functools.partialmethod(pow, 2)", "functools.partialmethod(pow, 3)"),
    "a cached property": (
        "functools.cached_property(lambda self: 1)",
        "functools.cached_property(lambda self: 2)",
    ),
    "a property": ("property(lambda self: 1)", "property(lambda self: 2)"),
    "a setter": ("property(None, lambda self, v: 1)", "property(None, lambda self, v: 2)"),
    "a cache": ("functools.cache(lambda x: 1)", "functools.cache(lambda x: 2)"),
    "a cache's size": ("functools.lru_cache(1)(len)", "functools.lru_cache(2)(len)"),
    "a singledispatch": ("dispatched(1)", "dispatched(2)"),
    "a wrapped function": ("decorated(1)(len)", "decorated(2)(len)"),
    "a function under a wrapper": ("decorated(1)(len)", "decorated(1)(abs)"),
    "a decorator that is a class": ("Deco(len, 1)", "Deco(len, 2)"),
    "a function under a class": ("Deco(len, 1)", "Deco(abs, 1)"),
    "an attribute of a function": ("with_attribute(1)", "with_attribute(2)"),
    "a context manager": (
        "contextlib.contextmanager(lambda: iter([1]))",
        "contextlib.contextmanager(lambda: iter([2]))",
    ),
    "a class made by hand": ("made('A', k=1)", "made('A', k=2)"),
    "an object": ("Own(1)", "Own(2)"),
    "a method": ("Own(1).method", "Own(2).method"),
    "a slot": ("Slotted(1)", "Slotted(2)"),
    "a slot of a base": ("Derived(1)", "Derived(2)"),
    "an attribute that is not pickled": ("RunStatistics(1)", "RunStatistics(2)"),
    "an attribute of a date": ("stamped(1)", "stamped(2)"),
    "an object that says what it pickles": ("Pickled(1)", "Pickled(2)"),
    "an object that refuses to pickle": ("Raising(1)", "Raising(2)"),
    "an object that would be made from itself": ("Circular(1)", "Circular(2)"),
    "a context variable": (
        "contextvars.ContextVar('a', default=1)",
        "contextvars.ContextVar('a', default=2)",
    ),
    "an object that pickles by name": ("Single(1)", "Single(2)"),
    "an object that is not to be asked": ("Asked(1)", "Asked(2)"),
    "a thread of one's own": ("Thread(1)", "Thread(2)"),
    "a dataclass": ("Data(1)", "Data(2)"),
    "a dataclass with slots": ("Fast(1)", "Fast(2)"),
    "a polynomial": ("np.poly1d([1, 2])", "np.poly1d([1, 3])"),
    "numbers": ("np.arange(3)", "np.arange(3) + 1"),
    "numbers of a type": ("np.arange(3)", "np.arange(3.0)"),
    "a shape": ("np.zeros((2, 3))", "np.zeros((3, 2))"),
    "an empty shape": ("np.zeros((0, 3))", "np.zeros((0, 2))"),
    "many numbers": ("np.arange(100_000)", "np.append(np.arange(99_999), 0)"),
    "every other number": ("np.arange(6)[::2]", "np.arange(6)[1::2]"),
    "long doubles": ("np.array([1, 2], 'g')", "np.array([1, 3], 'g')"),
    "fields": ("np.array([(1, 2.0)], 'i4,f8')", "np.array([(1, 3.0)], 'i4,f8')"),
    "padded fields": (
        "np.array([(1, 2.0)], np.dtype('i1,f8', align=True))",
        "np.array([(2, 2.0)], np.dtype('i1,f8', align=True))",
    ),
    "numbers of a subclass": ("np.rec.array([(1, 2.0)])", "np.rec.array([(1, 3.0)])"),
    "masked numbers": ("masked(True)", "masked(False)"),
    "objects": ("np.array([Own(1), None])", "np.array([Own(2), None])"),
    "a vectorized function": ("np.vectorize(lambda x: 1)", "np.vectorize(lambda x: 2)"),
    "what contains itself": ("loop(1)", "loop(2)"),
    "a ring": ("ring(1, 2, 3)", "ring(1, 3, 2)"),
    "parents and children": (
        "Node(1).add(Node(2)).add(Node(3).add(Node(4)))",
        "Node(1).add(Node(2).add(Node(3)).add(Node(4)))",
    ),
    "who is whose child": (
        "(lambda a, b: [a, b, a.add(b).add(b)])(Node(1), Node(1))",
        "(lambda a, b: [a, b, a.add(b).add(Node(1))])(Node(1), Node(1))",
    ),
    "a value of each worker": ("per_worker(list, (1,))", "per_worker(list, (2,))"),
    "a shared value": ("share([1])", "share([2])"),
    "a function with stars": ("star(pow)", "with_item(pow)"),
    "a reducer": ("Top(3)", "Top(4)"),
    "a reducer of functions": ("Fold(lambda a, b: a + b)", "Fold(lambda a, b: a - b)"),
    "a derived reducer": ("Sum().of(abs)", "Sum().of(len)"),
    "bins": ("Histogram([1, 2])", "Histogram([1, 3])"),
}

HOLDERS = {
    "in a list": "[0, {}]",
    "in a tuple": "(0, {})",
    "in a dict": "{{'a': 0, 'b': {}}}",
    "in a namespace": "SimpleNamespace(a={})",
    "in options": "argparse.Namespace(a={})",
    "in a ChainMap": "collections.ChainMap({{}}, {{'a': {}}})",
    "in a mapping proxy": "types.MappingProxyType({{'a': {}}})",
    "in a defaultdict": "collections.defaultdict(list, a={})",
    "in a deque": "collections.deque([{}])",
    "in a subclass of list": "Listed([{}])",
    "in a subclass of dict": "Mapped(a={})",
    "in an object": "Own({})",
    "in a slot": "Slotted({})",
    "in a slot of a base": "Derived({})",
    "in what pickles": "Pickled({})",
    "in what refuses": "Raising({})",
    "in a dataclass": "Data({})",
    "in a frozen dataclass": "Fast({})",
    "in a named tuple": "Point({})",
    "in an exception": "ValueError({})",
    "in a partial": "functools.partial(print, {})",
    "in keywords of a partial": "functools.partial(print, end={})",
    "in a closure": "(lambda v: lambda x: v)({})",
    "in a default": "(lambda x, v={}: v)",
    "in a keyword's default": "(lambda x, *, v={}: v)",
    "in an attribute of a function": "with_attribute({})",
    "in a decorator": "decorated({})(len)",
    "in a decorator that is a class": "Deco(len, {})",
    "in a bound method": "Own({}).method",
    "in a class": "made('A', k={})",
    "in an instance of a class": "made('A', k={})()",
    "in a property of a class": "made('A', k=property(lambda self, v={}: v))",
    "in a static method": "made('A', k=staticmethod(lambda v={}: v))",
    "in a class method": "made('A', k=classmethod(lambda cls, v={}: v))",
    "in a singledispatch": "dispatched({})",
    "in a cached function": "functools.cache(lambda x, v={}: v)",
    "in a node": "Node(1).add(Node({}))",
    "in a ring": "ring(1, {}, 2)",
    "in a loop": "loop({})",
    "in an object array": "objects({})",
    "in a module made by hand": "module({})",
    "in a reducer": "Fold(max, init=lambda v={}: v)",
    "in a value of each worker": "per_worker(print, {})",
}
IN_A_SET = {"in a set": "{{{}, 'p', 'q'}}", "in a frozenset": "frozenset([{}, 'p'])", "as a key": "{{{}: 1, 'p': 2}}"}

PLACES = {
    "a global": "K = {}\ndef f(x): return K\n",
    "a global of a function that it calls": "K = {}\ndef g(): return K\ndef f(x): return g()\n",
    "a global of a function in it": "K = {}\ndef f(x): return [(lambda: K)() for _ in 'a']\n",
    "a global of a class in it": "K = {}\ndef f(x):\n    class A:\n        k = K\n    return A\n",
    "a global of a default": "K = {}\ndef f(x, g=lambda: K): return g()\n",
    "a global that is deep": "K = {}\nL = [lambda: K]\ndef f(x): return L\n",
    "a closure": "def make(v):\n    def f(x): return v\n    return f\nf = make({})\n",
    "a default": "def f(x, k={}): return k\n",
    "a keyword's default": "def f(x, *, k={}): return k\n",
    "an attribute": "def f(x): return f.k\nf.k = {}\n",
    "self": "f = Own({}).method\n",
    "a callable's attribute": "f = Own({})\n",
    "a partial": "def g(k, x): return k\nf = functools.partial(g, {})\n",
    "a decorator": "@decorated({})\ndef f(x): return x\n",
    "a decorator that is a class": "class D(Deco): pass\nf = D(lambda x: x, {})\n",
    "a class's attribute": "class A:\n    k = {}\ndef f(x): return A.k\n",
    "a base's attribute": "class A:\n    k = {}\nclass B(A): pass\ndef f(x): return B.k\n",
    "a metaclass's attribute": "class M(type):\n    k = {}\nclass A(metaclass=M): pass\ndef f(x): return A.k\n",
    "a method's default": "class A:\n    def m(self, k={}): return k\ndef f(x): return A().m()\n",
    "a nested class's attribute": "class A:\n    class B:\n        k = {}\ndef f(x): return A.B.k\n",
    "a dataclass's default": (
        "@dataclasses.dataclass\nclass A:\n    k: object = dataclasses.field(default_factory=lambda k={}: k)\n"
        "def f(x): return A().k\n"
    ),
    "an attribute of a method": "class A:\n    def m(self): pass\n    m.k = {}\ndef f(x): return A.m.k\n",
    "a cached function": "K = {}\n@functools.cache\ndef g(): return K\ndef f(x): return g()\n",
    "func is star": "f = star(lambda x, v={}: v)\n",
    "the reducer": "f, reducer = abs, Fold(lambda a, b, v={}: v)\n",
    "a reducer of one's own": (
        "class R(poolagg.Reducer):\n    def __init__(self, k): self.k = k\n    def init(self): return 0\n"
        "    def step(self, a, b): return a\nf, reducer = abs, R({})\n"
    ),
}

SAME = {
    "a comment": ("def f(x):\n    # one\n    return x\n", "def f(x):\n    return x  # two\n"),
    "a docstring": ("def f(x):\n    'one'\n    return x\n", "def f(x):\n    return x\n"),
    "a docstring of a class": ("class A:\n    'one'\ndef f(x): return A\n", "class A:\n    pass\ndef f(x): return A\n"),
    "a docstring of a class in it": (
        "def f(x):\n    class A:\n        'one'\n    return A\n",
        "def f(x):\n\n    class A:\n        'two'\n    return A\n",
    ),
    "a docstring under a decorator": (
        "def g(x):\n    'one'\nf = Deco(g, 1)\n",
        "def g(x):\n    'two'\nf = Deco(g, 1)\n",
    ),
    "lines in a try": (
        "def f(x):\n    try:\n        return g(\n            x)\n    except E:\n        pass\n",
        "def f(x):\n    try: return g(x)\n    except E: pass\n",
    ),
    "lines that pass": (
        "def f(x):\n    try:\n        pass\n        g(x)\n    except E: pass\n",
        "def f(x):\n    try: g(x)\n    except E: pass\n",
    ),
    "the order of names in an object": (
        "K = SimpleNamespace(a=1, b=2)\ndef f(x): return K\n",
        "K = SimpleNamespace(b=2, a=1)\ndef f(x): return K\n",
    ),
    "the order of keywords": (
        "f = functools.partial(print, end=1, sep=2)\n",
        "f = functools.partial(print, sep=2, end=1)\n",
    ),
    "the order of keys": ("K = {'a': 1, 'b': 2}\ndef f(x): return K\n", "K = {'b': 2, 'a': 1}\ndef f(x): return K\n"),
    "the order of definitions": (
        "class A:\n    a = 1\n    def m(self): pass\ndef f(x): return A\n",
        "class A:\n    def m(self): pass\n    a = 1\ndef f(x): return A\n",
    ),
    "what f does not refer to": ("K = 1\ndef f(x): return x\n", "K = 2\ndef g(): pass\ndef f(x): return x\n"),
    "one object or two": (
        "K = [1, [2]]\nL = [K, K]\ndef f(x): return L\n",
        "L = [[1, [2]], [1, [2]]]\ndef f(x): return L\n",
    ),
    "what was called before": (
        "g = dispatched(1)\ndef f(x): return g\n",
        "g = dispatched(1)\ng('a'), g(1.0)\ndef f(x): return g\n",
    ),
    "what a cache holds": (
        "@functools.cache\ndef g(x): return x\ndef f(x): return g(x)\n",
        "@functools.cache\ndef g(x): return x\ng(1)\ndef f(x): return g(x)\n",
    ),
    "flags that were combined before": (
        "class E(enum.Flag):\n    A = 1\n    B = 2\ndef f(x): return E.A\n",
        "class E(enum.Flag):\n    A = 1\n    B = 2\nE.A | E.B, ~E.A\ndef f(x): return E.A\n",
    ),
    "what was pickled before": (
        "class A:\n    __slots__ = ('a',)\nK = A()\ndef f(x): return K\n",
        "import copy\nclass A:\n    __slots__ = ('a',)\nK = A()\ncopy.copy(K)\ndef f(x): return K\n",
    ),
    "a hash that was asked for": (
        "K = pathlib.Path('a')\ndef f(x): return K\n",
        "K = pathlib.Path('a')\nhash(K), K.parts, K.suffix\ndef f(x): return K\n",
    ),
    "where its bytes lie": (
        "K = np.asfortranarray(np.arange(6.0).reshape(2, 3))\ndef f(x): return K\n",
        "K = np.arange(12.0).reshape(2, 6)[:, :3] % 3 + [[0] * 3, [3] * 3]\nK = K[:]\ndef f(x): return K\n",
    ),
    **{
        f"another {name}": (f"K = {value}\ndef f(x): return K\n", f"K = [0, {value}][1]\ndef f(x): return K\n")
        for name, value in {
            "lock": "[threading.Lock(), threading.RLock(), threading.Condition(), threading.Event()]",
            "kin of locks": "[threading.Semaphore(), threading.BoundedSemaphore(), queue.Queue()]",
            "own state": "[queue.SimpleQueue(), random.SystemRandom(), sys.version_info]",
            "local": "threading.local()",
            "logger": "logging.getLogger('a')",
            "file": "[closed(open('/dev/null')), closed(open('/dev/null', 'rb'))]",
            "socket": "closed(socket.socket())",
            "reference": "[weakref.ref(Own), weakref.WeakSet([Own]), weakref.WeakKeyDictionary()]",
            "map keyed by where things lie": "(lambda k: {id(k): k})(Own(1))",
            "id of this process": "Client(os.getpid())",
        }.items()
    },
}

PROGRAM = """
import json, sys
sys.path[:0] = {path!r}
if {early}:
    import unittest.mock, decimal, poolagg.resources, http.client, sqlite3, asyncio, concurrent.futures, html.parser
    class Registered: pass
    import collections.abc
    for _ in range(50): collections.abc.Sized.register(type("T", (), dict()))
from fingerprints import told
print(json.dumps([told(source) for source in json.load(sys.stdin)]))
"""


def told(source, filename="<program>"):
    """The fingerprint of the `f` and `reducer` that a program defines; the error, if it is refused."""
    from poolagg import Sum
    from poolagg._checkpoint.fingerprint import fingerprint

    names = {**_preamble()}
    exec(compile(source, filename, "exec"), names)
    try:
        return fingerprint(names["f"], names.get("reducer") or Sum())
    except ValueError as error:
        return str(error)


@functools.cache
def _preamble():
    names = {"__name__": "__main__"}
    exec(compile(PREAMBLE, "<preamble>", "exec"), names)
    return names


def told_elsewhere(sources):
    """The fingerprints that two other processes find, under other hash seeds and with other imports before."""
    path = [str(SUPPORT), str(ROOT)]
    programs = [PROGRAM.format(path=path, early=early) for early in (False, True)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed, program in enumerate(programs, 1)
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(lambda process: process.communicate(json.dumps(sources), timeout=50), processes))
    for process, (_, errors) in zip(processes, ends, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out) for out, _ in ends]

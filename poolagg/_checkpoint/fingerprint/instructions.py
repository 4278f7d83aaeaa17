"""Describe a code object by its instructions and the values that they load, independent of where it is written.

Line numbers, file names, docstrings, comments, and the positions of constants and jump targets do not count. Rule: an
argument that is an index into a table of the code object is replaced by the entry. `dis` does this for all opcodes
except KW_NAMES of Python 3.11.
"""

from __future__ import annotations

import dis
from bisect import bisect_left
from types import CodeType
from typing import Any

from poolagg._checkpoint.canonical import ATOMS, dump

__all__ = ["global_names", "instructions"]

_HAS_DOCSTRING = 0x4000000  # from Python 3.13 on
_SILENT = {"NOP", "NOT_TAKEN", "EXTENDED_ARG", "CACHE"}
_NOTES = {"__doc__", "__firstlineno__", "__static_attributes__"}
_LITERAL = {"LOAD_CONST", "LOAD_SMALL_INT"}
_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_CONSTANTS = {*dis.hasconst, *([dis.opmap["KW_NAMES"]] if "KW_NAMES" in dis.opmap else [])}


def instructions(code: CodeType) -> Any:
    """Return the code as nested tuples of atoms."""
    read: Any = dis.Bytecode(code)
    steps = _without_notes([step for step in read if step.opname not in _SILENT])
    offsets = [step.offset for step in steps]
    flags = code.co_flags & ~_HAS_DOCSTRING
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, flags)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    handlers = [
        (*(bisect_left(offsets, offset) for offset in (entry.start, entry.end, entry.target)), entry.depth, entry.lasti)
        for entry in read.exception_entries
    ]
    return arguments, names, [_step(step, code, offsets) for step in steps], handlers


def global_names(code: CodeType) -> set[str]:
    """Return the names of globals and builtins that the code refers to, including nested functions and classes."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL}
    return names.union(*(global_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _without_notes(steps: list[dis.Instruction]) -> list[dis.Instruction]:
    """Drop the steps of a class's body that store its docstring, line or attributes."""
    stores = [at for at, step in enumerate(steps) if step.opname == "STORE_NAME" and step.argval in _NOTES]
    noted = {part for at in stores if steps[at - 1].opname in _LITERAL for part in (at - 1, at)}
    return [step for at, step in enumerate(steps) if at not in noted]


def _step(step: dis.Instruction, code: CodeType, offsets: list[int]) -> Any:
    argument = step.arg or 0
    if step.opcode in _JUMPS:
        return step.opname, bisect_left(offsets, step.argval)
    if step.opcode in _CONSTANTS:
        return step.opname, _constant(code.co_consts[argument])
    if isinstance(step.argval, str):
        return step.opname, step.argval, argument if step.opname == "LOAD_GLOBAL" and argument & 1 else None
    return step.opname, step.arg


def _constant(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is CodeType:
        return instructions(value)
    if kind is tuple:
        return "tuple", *map(_constant, value)
    if kind is frozenset:
        return "frozenset", *sorted(dump(_constant(part)) for part in value)
    return kind.__name__, repr(value)  # an ellipsis or a slice

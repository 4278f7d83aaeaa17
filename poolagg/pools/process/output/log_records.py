"""Forward log records to the parent, whose loggers handle them, from the time that the worker imports `logging`.

A handler that the parent's logger of this name has too, by its type, is a twin: the worker has it by a fork or by the
import of a module, and the parent calls the original. A handler that only the worker has (the initializer added it, or
`func` listens to a library) is called here, as anywhere.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poolagg._input.worker_state import here
from poolagg._runtime.exception_text import short_repr
from poolagg._runtime.signals import raised_by_handler
from poolagg.pools.process.output.settings import Loggers, Settings, type_name

if TYPE_CHECKING:
    import logging

__all__ = ["hear"]

PLAIN = {str, int, float, bool, type(None)}

_told: Loggers = {}
"""The parent's loggers that are set up."""


def hear(settings: Settings, send: Callable[[bytes], None]) -> None:
    """Take over the parent's levels, and forward records by `send` from now on."""
    import logging  # the worker has it: a parent that forks workers need not

    global _told
    before, _told = _told, settings.loggers or {}
    for name in before.keys() - _told.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, (level, disabled, _) in _told.items():
        logger = logging.getLogger(name)
        logger.disabled = disabled
        if not before:
            logger.filters.clear()  # inherited by a fork: the parent calls them
        logger.setLevel(level)
    logging.disable(settings.disabled)
    forwarding = logging.Handler()  # its lock keeps the order of threads' records
    forwarding.emit = functools.partial(_forward, send, forwarding.handleError)  # type: ignore[method-assign]

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        forwarding.handle(record)
        _call_own_handlers(logger, record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign, assignment]


def _call_own_handlers(logger: logging.Logger | None, record: logging.LogRecord) -> None:
    while logger is not None:
        for handler in logger.handlers:
            twins = _told[logger.name][2] if logger.name in _told else ()
            if record.levelno >= handler.level and type_name(handler) not in twins:
                handler.handle(record)
        logger = logger.parent if logger.propagate else None


def _forward(send: Callable[[bytes], None], refuse: Callable[[Any], None], record: logging.LogRecord) -> None:
    """Send a record as plain values; one whose arguments do not fit its message is reported as everywhere."""
    try:
        send(pickle.dumps(_described(record), 5))
    except Exception as error:
        if raised_by_handler(error):
            raise
        refuse(record)


def _described(record: logging.LogRecord) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the record's plain attributes, and the pickles of others. The message has its arguments in it.

    That is what `logging.handlers.QueueHandler` sends, since neither arguments nor tracebacks need pickle.
    """
    values = dict(vars(record), msg=record.getMessage(), args=None, exc_info=None, item_index=here.running)
    if record.exc_info and not record.exc_text:
        import logging

        values["exc_text"] = logging.Formatter().formatException(record.exc_info)
    plain = {name: value for name, value in values.items() if type(value) in PLAIN}
    return plain, {name: _pickled(value) for name, value in values.items() if name not in plain}


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, 5)
    except Exception as error:
        if raised_by_handler(error):
            raise
        return pickle.dumps(short_repr(value), 5)

"""Await a run in an asyncio program: its event loop goes on, and cancelling the task ends the run and its workers.

A thread runs `aggregate`. Closing the pool, from whichever thread, ends the run at once, however long its items take.
"""

import asyncio
import time

from poolagg import ProcessPool, Sum, aggregate


async def aggregated(func, iterable, reducer, **options):
    """Await `aggregate(func, iterable, reducer, ...)` in a pool of its own."""
    pool = ProcessPool(2).__enter__()
    run = asyncio.create_task(asyncio.to_thread(aggregate, func, iterable, reducer, pool=pool, **options))
    try:
        return await asyncio.shield(run)
    finally:
        await asyncio.to_thread(pool.close)
        await asyncio.gather(run, return_exceptions=True)  # after a cancellation: the thread has ended


def digits(number):
    """The work, in a worker process."""
    time.sleep(0.01)
    return len(str(2**number))


def waits(number):
    """Work that would take a day; item 0 is done at once."""
    time.sleep(86_400 * (number > 0))
    return number


async def main():
    loop, under_way = asyncio.get_running_loop(), asyncio.Event()
    counting = asyncio.create_task(aggregated(digits, range(100), Sum()))
    ticks = 0
    while not counting.done():
        await asyncio.sleep(0.01)
        ticks += 1
    print(f"{counting.result()} digits, and the event loop went on meanwhile: {ticks > 10}")

    def tell(event):
        if type(event).__name__ == "ChunkDone":
            loop.call_soon_threadsafe(under_way.set)

    waiting = asyncio.create_task(aggregated(waits, range(100), Sum(), watch=tell))
    await under_way.wait()
    began = time.monotonic()
    waiting.cancel()
    await asyncio.wait([waiting])
    print(f"cancelled: {waiting.cancelled()}, within two seconds: {time.monotonic() - began < 2}")


asyncio.run(main())

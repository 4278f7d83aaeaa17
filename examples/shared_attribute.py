"""An attribute that many processes set: the object stays here, the workers send what to set it with.

With a plain object and a pool each process sets a copy, and the copies are thrown away; with `Value` or a Manager
every `+=` needs a lock. Here nothing is shared: partial results come home and are applied one at a time.
"""

import os

from poolagg import Into, aggregate


class ParentTimes:
    def __init__(self):
        self.balance = 0
        self.largest = 0
        self.tellers = set()

    def book(self, entry):
        amount, teller = entry
        self.balance += amount  # no lock: `book` runs in this process only, one entry at a time
        self.largest = max(self.largest, amount)
        self.tellers.add(teller)


def interest(customer):
    """The work, in a worker process: what this customer's savings earn in fifty years, in whole cents."""
    savings = 1_000_00 + customer
    for _ in range(50):
        savings += savings * 3 // 100
    return savings - 1_000_00 - customer, os.getpid()


account = ParentTimes()
aggregate(interest, range(20_000), Into(account.book))

serially = sum(interest(customer)[0] for customer in range(20_000))
print(f"balance {account.balance:,} cents, largest entry {account.largest:,}")
print(f"serially {serially:,} cents: {'the same' if serially == account.balance else 'DIFFERENT'}")
print(f"computed by {len(account.tellers)} processes, this one {'too' if os.getpid() in account.tellers else 'not'}")

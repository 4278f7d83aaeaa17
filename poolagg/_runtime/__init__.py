"""What Python and the operating system give, in the form this package needs it; nothing here knows of runs, items
or pools.
"""

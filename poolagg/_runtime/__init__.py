"""Services of Python and the operating system, as this package needs them; no module here knows of runs or pools."""

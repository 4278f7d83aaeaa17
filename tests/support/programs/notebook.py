"""Runs cells in a real notebook kernel. The client has a process of its own: it leaves its event loop behind."""

from __future__ import annotations

import json
import subprocess
import sys

CLIENT = """
import json, sys
from jupyter_client.manager import start_new_kernel

def listen(message):
    kind, content = message["header"]["msg_type"], message["content"]
    if kind == "stream":
        sys.stdout.write(content["text"])
    elif kind == "error":
        print(*content["traceback"], sep="\\n")

kernel, client = start_new_kernel(kernel_name="python3", startup_timeout=40)
try:
    for cell in json.load(sys.stdin):
        client.execute_interactive(cell, timeout=40, output_hook=listen)
finally:
    client.stop_channels()
    kernel.shutdown_kernel(now=True)
"""


def shown(*cells: str) -> str:
    """Return the output of the cells, one after another, on either stream."""
    command = [sys.executable, "-c", CLIENT]
    ran = subprocess.run(command, input=json.dumps(cells).encode(), capture_output=True, timeout=55)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode()  # carriage returns and all

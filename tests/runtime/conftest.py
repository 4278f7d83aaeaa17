"""What one system alone can try."""

import sys

collect_ignore = ["test_like_windows.py"] if sys.platform == "win32" else ["test_windows.py"]

"""Ctrl-C at any line of a fit: for the tests of every family."""

import inspect
import sys


def interrupted_at(family, line, f):
    """Call f() with KeyboardInterrupt raised at the `line`-th line run in a family's estimator and its climber.

    -> True if f() raised it, False if f() ended before, None if f() swallowed it."""
    left = line
    files = {
        inspect.getsourcefile(sys.modules[name]) for name in (f"lvm.{family}", "lvm.fit", f"lvm.objectives.{family}")
    }

    def local(frame, event, arg):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return local

    old = sys.gettrace()
    sys.settrace(lambda frame, event, arg: local if frame.f_code.co_filename in files else None)
    try:
        f()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(old)
    return False if left > 0 else None

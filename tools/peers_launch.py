"""Runs one command from a small process and reports what it used, as JSON on stdout. Standard library only, little
imported.

The kernel lets a child start with its parent's peak RSS, so a heavy parent would be measured instead of the command.
"""

import os
import sys
import time

command = sys.argv[1:]
reader, writer = os.pipe()
errors = os.memfd_create("stderr")
actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, errors, 2), (os.POSIX_SPAWN_CLOSE, reader)]
start = time.perf_counter()
child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
os.close(writer)
first = None
while data := os.read(reader, 1 << 16):
    if first is None:
        first = time.perf_counter() - start
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
if code:
    message = os.pread(errors, 1 << 16, 0).decode(errors="replace").strip()
    sys.exit(f"exit status {code}: {message}")
print('{"wall": %.6f, "cpu": %.6f, "rss": %d, "first": %s}' % (wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
    * 1024, "null" if first is None else "%.6f" % first))

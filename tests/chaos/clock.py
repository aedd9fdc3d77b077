"""A wall clock that can be stepped for all processes below us, and for nobody else on the machine.

A small library, loaded before all others, adds to CLOCK_REALTIME what a shared file says. The kernel's own times (those
of files) stay as they are, as those of a file server would.
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

OFFSET_VARIABLE = "CHAOS_CLOCK"

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *offset;

__attribute__((constructor)) static void find_offset(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) offset = page;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""


def build(folder: Path) -> dict[str, str] | None:
    """What the environment of all that shall see our clock needs; None where no C compiler is."""
    compiler = shutil.which("cc")
    if compiler is None or not os.path.exists("/proc/self"):
        return None
    source, library, offset = folder / "clock.c", folder / "clock.so", folder / "clock.offset"
    source.write_text(_SOURCE)
    offset.write_bytes(struct.pack("l", 0))
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True, check=False
    )
    return None if done.returncode else {"LD_PRELOAD": str(library), OFFSET_VARIABLE: str(offset)}


def step(seconds: int) -> None:
    """Set the clock so far from the true one, for everybody at once."""
    fd = os.open(os.environ[OFFSET_VARIABLE], os.O_WRONLY)
    try:
        os.pwrite(fd, struct.pack("l", seconds), 0)
    finally:
        os.close(fd)

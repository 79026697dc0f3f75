#!/usr/bin/env python3
"""Has makedumpfile count the pages of a captured guest, and saves what it says: what tests/tests/kernels.rs compares with.

  count.py FOLDER MAKEDUMPFILE...

In FOLDER are `elf`, QEMU's core, and `console`, on which the guest said where its kernel's note is; there will be `makedumpfile`.

makedumpfile does not read QEMU's core as it is: it expects program headers right behind the file's, and the kernel's note among them,
which QEMU only adds for guests with a driver of its fw_cfg device. So it gets a core with other headers and the same memory.
"""
import os
import re
import struct
import subprocess
import sys

HEADER, PROGRAM = 64, 56


def loads(core):
    """The program headers of memory, as (type, flags, offset, virtual, physical, file size, memory size, alignment)."""
    with open(core, "rb") as file:
        head = file.read(HEADER)
        place, = struct.unpack_from("<Q", head, 32)
        count, = struct.unpack_from("<H", head, 56)
        file.seek(place)
        table = file.read(PROGRAM * count)
    headers = [struct.unpack_from("<IIQQQQQQ", table, PROGRAM * i) for i in range(count)]
    return head, [h for h in headers if h[0] == 1]


def copy(source, target, start, length, to):
    """Copies a range of bytes, holes as holes."""
    end = start + length
    while start < end:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError:
            return
        stop = min(end, os.lseek(source, start, os.SEEK_HOLE))
        while start < stop:
            data = os.pread(source, min(1 << 20, stop - start), start)
            os.pwrite(target, data, to + length - (end - start))
            start += len(data)


def write_core(core, out, note_at, note_size):
    head, memory = loads(core)
    source = os.open(core, os.O_RDONLY)
    for _, _, offset, _, physical, size, _, _ in memory:
        if physical <= note_at < physical + size:
            note = os.pread(source, note_size, offset + note_at - physical)
    target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    note_offset = HEADER + PROGRAM * (1 + len(memory))
    place = -(-(note_offset + len(note)) // 4096) * 4096
    headers = [(4, 0, note_offset, 0, note_at, len(note), len(note), 0)]
    for kind, flags, offset, virtual, physical, size, memory_size, align in memory:
        headers.append((kind, flags, place, virtual, physical, size, memory_size, align))
        os.ftruncate(target, place + size)
        copy(source, target, offset, size, place)
        place += -(-size // 4096) * 4096
    head = bytearray(head)
    struct.pack_into("<QQ", head, 32, HEADER, 0)
    struct.pack_into("<HHHHH", head, 54, PROGRAM, len(headers), 0, 0, 0)
    os.pwrite(target, bytes(head) + b"".join(struct.pack("<IIQQQQQQ", *h) for h in headers) + note, 0)
    os.close(target)
    os.close(source)


def main():
    folder, program = sys.argv[1], sys.argv[2:]
    path = lambda name: os.path.join(folder, name)
    with open(path("console"), errors="replace") as file:
        said = re.search(r"^vmcoreinfo (?:0x)?([0-9a-f]+) (?:0x)?([0-9a-f]+)", file.read(), re.MULTILINE)
    if not said:
        sys.exit(path("console") + " does not say where the kernel's note is")
    write_core(path("elf"), path("core"), int(said[1], 16), int(said[2], 16))
    # The counts are a report; the dump that it would write is of no use.
    args = program + ["-l", "-d", "31", "--message-level", "31", path("core"), path("dump")]
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    with open(path("makedumpfile"), "w") as file:
        file.write(done.stdout)
        file.write("exit status %d\n" % done.returncode)
    for name in ("core", "dump"):
        if os.path.exists(path(name)):
            os.remove(path(name))


if __name__ == "__main__":
    main()

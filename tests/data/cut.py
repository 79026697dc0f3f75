#!/usr/bin/env python3
"""Cuts the repo's sample from a guest's memory, the same memory earlier, and the guest's disk.

    ./cut.py MEM OLD_MEM DISK [PIECES PAGES]

Takes PIECES pieces of PAGES pages at even distances from both memories, and of the disk the blocks that those pages
equal, with the eight blocks before and after each; writes sample.mem.zst, sample.old.mem.zst, sample.disk.zst here.
Page contents are not changed. Needs the zstd program.
"""
import hashlib
import subprocess
import sys

PAGE = 4096
NEIGHBOURS = 8


def pages(data):
    return [data[i:i + PAGE] for i in range(0, len(data) - len(data) % PAGE, PAGE)]


def cut(memory, count, size):
    step = len(memory) // count
    return [page for i in range(count) for page in memory[i * step + (step - size) // 2:][:size]]


def main():
    mem, old, disk = (pages(open(path, "rb").read()) for path in sys.argv[1:4])
    count, size = (int(arg) for arg in sys.argv[4:6]) if len(sys.argv) > 4 else (16, 128)
    mem, old = cut(mem, count, size), cut(old, count, size)
    digest = lambda page: hashlib.blake2b(page, digest_size=16).digest()
    wanted = {digest(page) for page in mem if any(page)}
    found = [i for i, block in enumerate(disk) if digest(block) in wanted]
    keep = sorted({j for i in found for j in range(i - NEIGHBOURS, i + NEIGHBOURS + 1) if 0 <= j < len(disk)})
    parts = {"sample.mem": mem, "sample.old.mem": old, "sample.disk": [disk[i] for i in keep]}
    for name, content in parts.items():
        data = b"".join(content)
        subprocess.run(["zstd", "-19", "--ultra", "-q", "-f", "-o", name + ".zst"], input=data, check=True)
        print(f"{name}: {len(content)} pages")


main()

#!/usr/bin/env python3
"""Boot a test guest under QEMU, wait until it says that it is ready, and save its memory in several forms.

  capture.py OUT --kernel FILE --initrd FILE [--disk FILE] [--memory MIB] [--qemu PROGRAM] [--machine M] [--cpu C]
                 [--console TTY] [--limit SECONDS] [--writable]

What it leaves in the folder OUT, which it makes:

  raw         the guest's RAM, as QEMU holds it: above a hole below 4 GiB it goes on without one
  elf         QEMU's dump-guest-memory, an ELF core with physical addresses
  qemu        QEMU's migration stream
  console     what the guest printed
  about.json  how it was started, and how long that took
"""
import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path, process):
        end = time.time() + 30
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.time() > end or process.poll() is not None:
                    sys.exit("QEMU does not answer")
                time.sleep(0.1)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        for line in self.file:
            answer = json.loads(line)
            if "error" in answer:
                sys.exit("%s: %s" % (command, answer["error"]["desc"]))
            if "return" in answer:
                return answer["return"]
        sys.exit("QEMU ended during " + command)


def wait_for_guest(console, process, limit):
    end = time.time() + limit
    while time.time() < end:
        with open(console, errors="replace") as file:
            text = file.read()
        if "MIG READY" in text:
            return
        if "MIG FAILED" in text or process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit("the guest did not get ready; %s ends with:\n%s" % (console, text[-2000:]))


def migrate(qmp, path):
    qmp.run("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    qmp.run("migrate", uri="exec:cat > '%s'" % path)
    while True:
        status = qmp.run("query-migrate").get("status")
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            sys.exit("migration to a file: " + status)
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--disk")
    parser.add_argument("--memory", type=int, default=256)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--machine", default="pc")
    parser.add_argument("--cpu", default="max,la57=off")
    parser.add_argument("--console", default="ttyS0")
    parser.add_argument("--append", default="")
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--writable", action="store_true", help="the guest writes to its disk")
    a = parser.parse_args()
    shutil.rmtree(a.out, ignore_errors=True)
    os.makedirs(a.out)
    out = os.path.abspath(a.out)
    path = lambda name: os.path.join(out, name)
    ram = path("raw")
    args = [
        # Two processors in one thread: in threads of their own, QEMU 7.2 now and then has one run an instruction that the kernel
        # has patched on the other, and the guest ends with "Oops: int3".
        a.qemu, "-machine", a.machine + ",memory-backend=ram", "-accel", "tcg,thread=single", "-cpu", a.cpu, "-smp", "2",
        "-m", str(a.memory), "-object", "memory-backend-file,id=ram,size=%dM,share=on,mem-path=%s" % (a.memory, ram),
        "-nodefaults", "-no-reboot", "-display", "none", "-device", "vmcoreinfo", "-kernel", os.path.abspath(a.kernel), "-initrd", os.path.abspath(a.initrd),
        "-append", "console=%s quiet panic=-1 %s" % (a.console, a.append),
        "-serial", "file:" + path("console"), "-qmp", "unix:qmp,server=on,wait=off",
    ]
    if a.disk:
        disk = "file=%s,format=raw,if=virtio,cache=writeback,readonly=%s" % (os.path.abspath(a.disk), "off" if a.writable else "on")
        args += ["-drive", disk]
    start = time.time()
    # A socket's path may not be long, so QEMU runs in the folder.
    process = subprocess.Popen(args, cwd=out, stdin=subprocess.DEVNULL)
    try:
        os.chdir(out)
        qmp = Qmp("qmp", process)
        wait_for_guest("console", process, a.limit)
        qmp.run("stop")
        booted = time.time() - start
        qmp.run("dump-guest-memory", paging=False, protocol="file:" + path("elf"))
        migrate(qmp, path("qemu"))
        qmp.run("quit")
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    for name in ("raw", "elf"):
        subprocess.check_call(["fallocate", "--dig-holes", name])
    about = {"command": args, "memory_mib": a.memory, "boot_s": round(booted, 1), "all_s": round(time.time() - start, 1)}
    with open("about.json", "w") as file:
        json.dump(about, file, indent=1)
    print("%s: ready after %.1f s, saved after %.1f s" % (a.out, booted, time.time() - start), flush=True)


if __name__ == "__main__":
    main()

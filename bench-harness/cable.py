#!/usr/bin/env python3
"""Migrates a guest's memory between two network namespaces over a shaped cable, beside what one would pipe instead.

    cable.py MIG GUEST.raw --reference GUEST.disk --rate 100mbit --rate 1gbit --rate 10gbit --repeats 3 --json OUT.json

As root on Linux, with iproute2, gzip and zstd. MIG is a release build of `mig`. Each contender runs as it is, a process at each end (mig:
`mig send` and `mig receive`, with TLS); the others are `PROGRAM < FILE` onto a TCP connection and its decoder from there. Contenders take turns.
Time is from the start of the sender until the receiver's file is complete, which is then compared. Bytes are those that left the sending interface,
with headers. References have their index (`mig index`, made here first, beside them). Memory is the peak of what is private to a process (RssAnon): mapped files are not in it. Outputs are written to /dev/shm, so that no disk is measured.
"""

import argparse
import filecmp
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ADDRESSES = ["10.78.0.1", "10.78.0.2"]
PORT = 7000

# The ends of a connection for programs that only know standard input and output.
SEND = """
import socket, subprocess, sys, time
while True:
    try:
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
sys.exit(subprocess.run(sys.argv[3:], stdout=connection).returncode)
"""
RECEIVE = """
import socket, subprocess, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
connection, _ = listener.accept()
with open(sys.argv[3], "wb") as output:
    sys.exit(subprocess.run(sys.argv[4:], stdin=connection, stdout=output).returncode)
"""


def must(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Cable:
    """Two namespaces and a veth pair between them, gone when the block ends."""

    def __init__(self):
        self.names = [f"cable-{os.getpid()}-{end}" for end in "ab"]

    def __enter__(self):
        a, b = self.names
        for name in self.names:
            must("ip", "netns", "add", name)
        must("ip", "-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b)
        for name, address in zip(self.names, ADDRESSES):
            must("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            must("ip", "-n", name, "link", "set", "lo", "up")
            must("ip", "-n", name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name])

    def shape(self, rate):
        for name in self.names:
            must("tc", "-n", name, "qdisc", "replace", "dev", "eth0", "root",
                 "tbf", "rate", rate, "burst", "1mb", "latency", "20ms")

    def sent(self):
        text = subprocess.check_output(["ip", "-n", self.names[0], "-j", "-s", "link", "show", "eth0"])
        return json.loads(text)[0]["stats64"]["tx"]["bytes"]

    def start(self, end, command, **how):
        return subprocess.Popen(["ip", "netns", "exec", self.names[end], *command], **how)


class Peak(threading.Thread):
    """The most private memory that a process, or all that it started, had at once."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.kib = process, 0
        self.start()

    def family(self):
        found, new = set(), [self.process.pid]
        while new:
            pid = new.pop()
            found.add(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as children:
                        new.extend(int(child) for child in children.read().split())
            except OSError:
                pass
        return found

    def run(self):
        while self.process.poll() is None:
            now = 0
            for pid in self.family():
                try:
                    with open(f"/proc/{pid}/status") as status:
                        now += sum(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
                except OSError:
                    pass
            self.kib = max(self.kib, now)
            time.sleep(0.02)


def piped(encode, decode):
    def run(cable, arguments, folder, output):
        python = [sys.executable, "-c"]
        receiver = cable.start(1, [*python, RECEIVE, ADDRESSES[1], str(PORT), output, *decode],
                               stdout=subprocess.PIPE)
        receiver.stdout.readline()
        start = time.monotonic()
        sender = cable.start(0, [*python, SEND, ADDRESSES[1], str(PORT), *encode, arguments.image])
        return start, sender, receiver
    return run


def mig(*options, references=True):
    def run(cable, arguments, folder, output):
        common = [item for path in arguments.reference for item in ("--reference", path)] if references else []
        keys = [f"{folder}/keys/{end}" for end in "ab"]
        receiver = cable.start(1, [arguments.mig, "receive", "--json", "--listen", f"{ADDRESSES[1]}:{PORT}",
                                   "--keys", keys[1], "--output", output, *common], stdout=subprocess.PIPE, text=True)
        receiver.stdout.readline()
        start = time.monotonic()
        sender = cable.start(0, [arguments.mig, "send", "--json", arguments.image, "--to", f"{ADDRESSES[1]}:{PORT}",
                                 "--keys", keys[0], *common, *options], stdout=subprocess.DEVNULL)
        # It says how far it is, which somebody has to read.
        threading.Thread(target=receiver.stdout.read, daemon=True).start()
        return start, sender, receiver
    return run


CONTENDERS = {
    "raw": piped(["cat"], ["cat"]),
    "gzip -6": piped(["gzip", "-6", "-c"], ["gzip", "-dc"]),
    "zstd -1": piped(["zstd", "-q", "-1", "-T0", "-c"], ["zstd", "-q", "-dc"]),
    "zstd -3": piped(["zstd", "-q", "-3", "-T0", "-c"], ["zstd", "-q", "-dc"]),
    "mig auto": mig(),
    "mig store": mig("--effort", "store"),
    "mig fast": mig("--effort", "fast"),
    "mig balanced": mig("--effort", "balanced"),
    "mig dense": mig("--effort", "dense"),
    "mig auto, no reference": mig(references=False),
}


def measure(cable, arguments, folder, name):
    output = os.path.join(folder, "arrived")
    before = cable.sent()
    start, sender, receiver = CONTENDERS[name](cable, arguments, folder, output)
    peaks = [Peak(sender), Peak(receiver)]
    codes = [sender.wait(), receiver.wait()]
    seconds = time.monotonic() - start
    for peak in peaks:
        peak.join()
    if codes != [0, 0]:
        sys.exit(f"{name}: ended with {codes}")
    result = {"seconds": seconds, "bytes": cable.sent() - before, "peak_mib": [peak.kib / 1024 for peak in peaks]}
    if not filecmp.cmp(arguments.image, output, shallow=False):
        sys.exit(f"{name}: what arrived is not what was sent")
    os.remove(output)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mig", help="a release build of mig")
    parser.add_argument("image", help="memory image of a real guest")
    parser.add_argument("-r", "--reference", action="append", default=[], help="something both ends have")
    parser.add_argument("--rate", action="append", default=[], help="of the cable, as tc has it")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="only these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write all of it to this file")
    arguments = parser.parse_args()
    arguments.mig, arguments.image = os.path.abspath(arguments.mig), os.path.abspath(arguments.image)
    arguments.reference = [os.path.abspath(path) for path in arguments.reference]
    names = arguments.contender or ["raw", "gzip -6", "zstd -1", "mig auto"]
    report = {
        "image": os.path.basename(arguments.image), "image_bytes": os.path.getsize(arguments.image),
        "references": [os.path.basename(path) for path in arguments.reference],
        "kernel": platform.release(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "mig": subprocess.check_output([arguments.mig, "--version"], text=True).strip(), "links": [],
    }
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, Cable() as cable:
        must(arguments.mig, "keys", f"{folder}/keys", f"a={ADDRESSES[0]}", f"b={ADDRESSES[1]}")
        for path in arguments.reference:
            must(arguments.mig, "index", path)
        for rate in arguments.rate or ["100mbit", "1gbit", "10gbit"]:
            cable.shape(rate)
            runs = {name: [] for name in names}
            for _ in range(arguments.repeats):
                for name in names:
                    runs[name].append(measure(cable, arguments, folder, name))
            report["links"].append({"rate": rate, "contenders": runs})
            show(rate, runs)
            if arguments.json:
                with open(arguments.json, "w") as out:
                    json.dump(report, out, indent=1)


def show(rate, runs):
    median = {name: statistics.median(run["seconds"] for run in all_of) for name, all_of in runs.items()}
    peers = [seconds for name, seconds in median.items() if not name.startswith("mig")]
    print(f"\n{rate}\n{'':24} {'seconds':>9} {'spread':>15} {'of best peer':>13} {'bytes':>14} {'peak MiB, both ends':>20}")
    for name, all_of in runs.items():
        seconds = [run["seconds"] for run in all_of]
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        of_peer = f"{median[name] / min(peers):.2f}" if peers else ""
        peaks = " ".join(f"{max(run['peak_mib'][end] for run in all_of):.0f}" for end in (0, 1))
        sent = round(statistics.median(run["bytes"] for run in all_of))
        print(f"{name:24} {median[name]:9.2f} {spread:>15} {of_peer:>13} {sent:14,} {peaks:>20}", flush=True)


if __name__ == "__main__":
    main()

"""The measuring part of hack/bench: every runtime in turn, row by row, in the same minutes on the same machine."""
import json, os, re, shutil, statistics, subprocess, sys, tempfile, time

top, runs = sys.argv[1], int(sys.argv[2])
runtimes = dict(pair.split("=", 1) for pair in sys.argv[3:])
rootfs = f"{top}/target/rootfs"
work = tempfile.mkdtemp(prefix="bulkhead-bench-")
network = os.path.basename(work)

ROWS = {
    "start /bin/true": ["/bin/true"],
    "python3 -c pass": ["/usr/bin/python3", "-c", "pass"],
    "gcc: compile and run hello": ["/bin/sh", "-c", "cd /tmp; echo 'int puts(const char*);int main(){puts(\"hello\");}' > h.c; gcc -w -o h h.c && ./h"],
    "bash: 100 x fork+exec": ["/bin/bash", "-c", "for i in {1..100}; do /bin/true; done"],
    "find /usr -type f": ["/usr/bin/find", "/usr", "-type", "f"],
    "tar of /usr to /dev/null": ["/bin/sh", "-c", "tar -cf - /usr | cat > /dev/null"],
}
REDIS = "redis-server --port 6399 --save '' > /dev/null & for i in $(seq 50); do redis-cli -p 6399 ping >/dev/null 2>&1 && break; sleep 0.1; done; redis-benchmark -p 6399 -n 20000 -c 20 -q -t set,get 2>/dev/null | tr '\\r' '\\n' | grep 'per second'; redis-cli -p 6399 shutdown nosave"


def bundle(name, runtime, args):
    path = f"{work}/{name}"
    os.makedirs(path, exist_ok=True)
    for d in ("upper", "work", "merged"):
        os.makedirs(f"{path}/{d}", exist_ok=True)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={rootfs},upperdir={path}/upper,workdir={path}/work", f"{path}/merged"], check=True)
    config = {
        "ociVersion": "1.0.2", "hostname": "bench",
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"],
                    "capabilities": {s: ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"] for s in ("bounding", "effective", "permitted")}},
        "root": {"path": f"{path}/merged"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                   {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                   {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                   {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
                   {"destination": "/bench", "type": "bind", "source": f"{top}/target", "options": ["rbind", "ro"]}],
        "linux": {"namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount")] + [{"type": "network", "path": f"/run/netns/{network}"}]},
    }
    json.dump(config, open(f"{path}/config.json", "w"))
    return path


def command(runtime, path, name, verb="run"):
    base = [runtimes[runtime], "--root", f"{work}/state-{runtime}"]
    if runtime.startswith("runsc"):
        base += ["--network", "host", "--ignore-cgroups"]
    return base + [verb] + (["--bundle", path] if verb == "run" else []) + [name]


def run(runtime, args, label):
    name = f"b{label}"
    path = bundle(name, runtime, args)
    started = time.monotonic()
    done = subprocess.run(command(runtime, path, name), stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    took = time.monotonic() - started
    subprocess.run(command(runtime, path, name, "delete"), capture_output=True)
    subprocess.run(["umount", f"{path}/merged"])
    shutil.rmtree(path, ignore_errors=True)
    return took, done.stdout.decode(errors="replace"), done.returncode


def idle_memory(runtime):
    """PSS of what a pod costs beside its workload: every process that began with it, less the workload's own."""
    def processes():
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                found[int(pid)] = (open(f"/proc/{pid}/comm").read().strip(), open(f"/proc/{pid}/smaps_rollup").read())
            except OSError:
                pass
        return found
    name, before = "idle", set(processes())
    path = bundle(name, runtime, ["/bin/sleep", "1000"])
    detached = command(runtime, path, name)
    detached.insert(detached.index("run") + 1, "--detach")
    subprocess.run(detached, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(2)
    total = 0
    for pid, (comm, rollup) in processes().items():
        if pid not in before and comm != "sleep" and (match := re.search(r"^Pss:\s+(\d+)", rollup, re.M)):
            total += int(match.group(1))
    subprocess.run(command(runtime, path, name, "kill")[:-1] + [name, "KILL"], capture_output=True)
    time.sleep(0.5)
    delete = command(runtime, path, name, "delete")
    delete.insert(delete.index("delete") + 1, "--force")
    subprocess.run(delete, capture_output=True)
    subprocess.run(["umount", f"{path}/merged"])
    return total / 1024


def table(title, rows, unit):
    names = list(runtimes)
    print(f"\n{title}\n{'':34}" + "".join(f"{name:>22}" for name in names) + "   bulkhead / each")
    for row, values in rows.items():
        cells, medians = [], {}
        for name in names:
            if not values.get(name):
                cells.append(f"{'-':>22}")
                continue
            medians[name] = statistics.median(values[name])
            cells.append(f"{medians[name]:>9.1f} {unit} ({min(values[name]):.0f}-{max(values[name]):.0f})".rjust(22))
        ratios = [f"{medians['bulkhead'] / medians[n]:.2f}" if n in medians and "bulkhead" in medians and medians[n] else "-" for n in names if n != "bulkhead"]
        print(f"{row:34}" + "".join(cells) + "   " + " ".join(ratios))


try:
    subprocess.run(["ip", "netns", "add", network], check=True)
    subprocess.run(["ip", "-n", network, "link", "set", "lo", "up"], check=True)
    label, results = 0, {row: {name: [] for name in runtimes} for row in ROWS}
    for turn in range(runs + 1):
        for row, args in ROWS.items():
            for name in runtimes:
                label += 1
                took, _, code = run(name, args, label)
                if turn and code == 0:
                    results[row][name].append(took * 1000)
        print(f"round {turn} of {runs} done" + ("" if turn else " (warm-up, not counted)"), flush=True)
    table("whole programs", results, "ms")
    calls = {}
    for turn in range(min(runs, 3)):
        for name in runtimes:
            label += 1
            _, output, _ = run(name, ["/bench/sysb"], label)
            for line in output.splitlines():
                if match := re.match(r"(.+?)\s+(\d+) ns", line):
                    calls.setdefault(match.group(1), {}).setdefault(name, []).append(float(match.group(2)))
    table("system calls", calls, "ns")
    redis = {}
    for turn in range(min(runs, 3)):
        for name in runtimes:
            label += 1
            _, output, _ = run(name, ["/bin/sh", "-c", REDIS], label)
            for line in output.splitlines():
                if match := re.match(r"(\w+): ([\d.]+) requests per second", line):
                    redis.setdefault(f"redis-benchmark {match.group(1)}", {}).setdefault(name, []).append(float(match.group(2)) / 1000)
    table("requests (more is better)", redis, "k/s")
    table("memory of an idle pod, beside the workload", {"PSS": {name: [idle_memory(name)] for name in runtimes}}, "MB")
finally:
    subprocess.run(["ip", "netns", "del", network])
    shutil.rmtree(work, ignore_errors=True)

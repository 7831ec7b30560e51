"""What programs that supervise themselves do: descriptors closed for children, clocks of threads, /proc of threads and children, maps of files that go."""
import ctypes, mmap, os, resource, signal, subprocess, sys, tempfile, threading, time

def names(path):
    return sorted(os.listdir(path))

def main():
    # A child with none of our descriptors but the ones it is to have.
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    for fd in many:
        os.set_inheritable(fd, True)
    code = "import os; print(len([fd for fd in os.listdir('/proc/self/fd') if int(fd) > 2]))"
    print(subprocess.run([sys.executable, "-c", code], close_fds=True, pass_fds=many[:3], capture_output=True, text=True).stdout)
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) in many:
            os.close(int(fd))
    print([fd in map(int, os.listdir("/proc/self/fd")) for fd in many].count(True))
    # Threads: names, clocks, their directories.
    stop, ready = threading.Event(), threading.Barrier(5)
    def work(number):
        ctypes.CDLL(None).prctl(15, b"worker-%d" % number)
        ready.wait()
        stop.wait()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    ready.wait()
    print(sorted(open(f"/proc/self/task/{tid}/comm").read().strip() for tid in os.listdir("/proc/self/task")))
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("Threads")])
    print(all(time.clock_gettime(time.pthread_getcpuclockid(t.ident)) >= 0 for t in threads), len(names("/proc/self/task")))
    stop.set()
    [t.join() for t in threads]
    # Threads that make threads and end.
    done = []
    def chain(level):
        if level:
            threading.Thread(target=chain, args=(level - 1,)).start()
        done.append(level)
    chain(20)
    while len(done) < 21 or threading.active_count() > 1:
        time.sleep(0.01)
    print(len(done))
    # Mapped files: named, renamed, gone.
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "mapped")
        with open(path, "wb") as f:
            f.write(b"x" * 100000)
        with open(path, "r+b") as f:
            m = mmap.mmap(f.fileno(), 0)
        line = next(l for l in open("/proc/self/maps") if l.rstrip().endswith(path))
        s = os.stat(path)
        print(line.split()[1], int(line.split()[4]) == s.st_ino, [int(x, 16) for x in line.split()[3].split(":")] == [os.major(s.st_dev), os.minor(s.st_dev)])
        os.unlink(path)
        print([l.split()[6] for l in open("/proc/self/maps") if path in l])
        m.close()
    # Children, and what is left of one.
    child = subprocess.Popen(["sleep", "100"])
    while open(f"/proc/{child.pid}/cmdline").read() == "":
        time.sleep(0.01)
    print(open(f"/proc/{child.pid}/cmdline").read().split("\0")[:2], os.readlink(f"/proc/{child.pid}/cwd"))
    print(str(child.pid) in open(f"/proc/self/task/{os.getpid()}/children").read().split())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    print(open(f"/proc/{child.pid}/stat").read().split()[2], child.wait())
    try:
        open(f"/proc/{child.pid}/stat")
    except OSError as error:
        print(error.errno)
    # Limits and use.
    print(resource.getrlimit(resource.RLIMIT_NOFILE), [l.split()[3:5] for l in open("/proc/self/limits") if "open files" in l])
    before = dict(l.split(": ") for l in open("/proc/self/io").read().splitlines())
    with open("/dev/zero", "rb", buffering=0) as zero, open("/dev/null", "wb", buffering=0) as null:
        null.write(zero.read(123456))
    after = dict(l.split(": ") for l in open("/proc/self/io").read().splitlines())
    print(int(after["rchar"]) - int(before["rchar"]) >= 123456, int(after["wchar"]) - int(before["wchar"]))

if __name__ == "__main__":
    main()

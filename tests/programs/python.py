"""subprocess, threading, multiprocessing, asyncio, sqlite3, sockets, mmap, signal, pty, tempfile."""
import asyncio, mmap, multiprocessing, os, pty, select, signal, socket, sqlite3, subprocess, sys, tempfile, threading, time

def work(n):
    return n * n

def main():
    print(subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True))
    print(subprocess.check_output("cat", input=b"x" * 200000, shell=True).count(b"x"))
    try:
        subprocess.run(["/nonexistent"])
    except FileNotFoundError as error:
        print(error.errno)
    total = []
    lock = threading.Lock()
    def add(n):
        with lock:
            total.append(n)
    threads = [threading.Thread(target=add, args=(n,)) for n in range(20)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(sum(total))
    event = threading.Event(); threading.Timer(0.05, event.set).start(); print(event.wait(5))
    with multiprocessing.Pool(3) as pool:
        print(pool.map(work, range(10)))
    queue = multiprocessing.Queue(); p = multiprocessing.Process(target=queue.put, args=("hi",)); p.start(); print(queue.get(timeout=5)); p.join()

    async def echo():
        async def serve(reader, writer):
            writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n"); print(await reader.readline())
        process = await asyncio.create_subprocess_exec("echo", "sub", stdout=subprocess.PIPE)
        print((await process.communicate())[0])
        await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(50)))
        server.close()
    asyncio.run(echo())

    with tempfile.TemporaryDirectory() as d:
        db = sqlite3.connect(os.path.join(d, "x.db"))
        db.execute("create table t (a integer, b text)")
        db.executemany("insert into t values (?, ?)", [(n, str(n)) for n in range(1000)]); db.commit()
        print(db.execute("select count(*), sum(a) from t").fetchone())
        db.execute("pragma journal_mode=wal").fetchone(); db.execute("delete from t where a % 2"); db.commit()
        print(db.execute("select count(*) from t").fetchone()); db.close()
        path = os.path.join(d, "m")
        with open(path, "w+b") as f:
            f.write(b"0" * 8192); f.flush()
            m = mmap.mmap(f.fileno(), 8192); m[4096:4101] = b"hello"; m.flush(); f.seek(4096); print(f.read(5)); m.close()
        anonymous = mmap.mmap(-1, 4096)
        pid = os.fork()
        if pid == 0:
            anonymous[:5] = b"child"; os._exit(5)
        print(os.waitpid(pid, 0)[1] >> 8, anonymous[:5])
        name = os.path.join(d, "sock")
        server = socket.socket(socket.AF_UNIX); server.bind(name); server.listen()
        client = socket.socket(socket.AF_UNIX); client.connect(name)
        conn, _ = server.accept(); client.sendall(b"unix"); print(conn.recv(10))
        socket.send_fds(client, [b"fd"], [sys.stdout.fileno()]); data, fds, _, _ = socket.recv_fds(conn, 10, 1); print(data, len(fds))
        os.symlink("m", os.path.join(d, "link")); print(sorted(os.listdir(d)), os.path.islink(os.path.join(d, "link")))
    a, b = socket.socketpair(); a.send(b"pair"); print(b.recv(10)); a.close(); print(b.recv(10))
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); u.sendto(b"dgram", u.getsockname()); print(u.recvfrom(10)[0])
    try:
        socket.create_connection(("127.0.0.1", 1), timeout=2)
    except ConnectionRefusedError as error:
        print(error.errno)
    got = []
    signal.signal(signal.SIGALRM, lambda *_: got.append("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.05)
    started = time.monotonic(); time.sleep(0.2); print(got, time.monotonic() - started >= 0.2)
    signal.signal(signal.SIGUSR1, lambda *_: got.append("usr1")); os.kill(os.getpid(), signal.SIGUSR1); print(got)
    r, w = os.pipe(); signal.setitimer(signal.ITIMER_REAL, 0.05); threading.Timer(0.2, os.write, (w, b"late")).start(); print(os.read(r, 10), got)
    print(select.select([r], [w], [], 0)[1] == [w])
    p = select.epoll(); p.register(r, select.EPOLLIN); os.write(w, b"e"); print(p.poll(1)[0][1]); p.close()
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "stty size; echo pty; exit 4"])
    out = b""
    try:
        while True:
            data = os.read(fd, 100)
            if not data: break
            out += data
    except OSError:
        pass
    print(out, os.waitpid(pid, 0)[1] >> 8)
    print(os.getpid(), os.getuid(), os.getcwd(), os.path.exists("/proc/self/exe"), os.readlink("/proc/self/exe"))
    print(len(os.urandom(16)), os.cpu_count() > 0, os.sched_getaffinity(0) != set())

if __name__ == "__main__":
    main()

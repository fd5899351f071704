"""Ways out of a sandbox, each tried for real. It runs inside of one, and outside to show that the attempt itself works.

The argument is a JSON object: the attempts, each a name and its arguments, and where to try a statement that policy blocks
afterwards. Prints one: what each attempt got or how it was refused, and what became of the statement.
"""
import ctypes, errno, json, mmap, os, platform, signal, socket, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NUMBERS = {  # x86_64, and the architectures with the generic table
    "ptrace": (101, 117), "init_module": (175, 105), "delete_module": (176, 106), "finit_module": (313, 273),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "unshare": (272, 97), "setns": (308, 268),
    "clone": (56, 220), "clone3": (435, 435), "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
}
CLONE = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
         "net": 0x40000000, "time": 0x80}


class Refused(Exception):
    pass


def call(name, *arguments):
    number = NUMBERS[name][0 if X86 else 1]
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def passed(count=1):
    """Descriptors that the test passes over standard input."""
    control = socket.socket(fileno=os.dup(0))
    return socket.recv_fds(control, 1, count)[1]


def receive(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise Refused("closed")
        data += more
    return data


def claim(sock, table):
    """Makes a table over a connection: what no policy of these tests allows."""
    sock.settimeout(60)
    body = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
    sock.sendall(struct.pack("!i", len(body) + 4) + body)

    def until_ready():
        failed = None
        while True:
            tag, size = struct.unpack("!ci", receive(sock, 5))
            body = receive(sock, size - 4)
            if tag == b"E":
                failed = next(f[1:].decode() for f in body.split(b"\0") if f[:1] == b"C")
                if failed[:2] in ("08", "57", "28"):
                    raise Refused(failed)
            if tag == b"Z":
                return failed

    until_ready()
    text = f"create table {table} ()".encode() + b"\0"
    sock.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)
    failed = until_ready()
    sock.close()
    if failed:
        raise Refused(failed)
    return "a table"


def dial(host, port, table="escaped"):
    with socket.create_connection((host, port), timeout=60) as sock:
        return claim(sock, table)


# --- the network ---

def setns_path(path, host, port):
    with open(path) as namespace:
        call("setns", namespace.fileno(), CLONE["net"])
    return dial(host, port)


def setns_each(host, port):
    """Every network namespace that any process in sight has."""
    outcomes = set()
    here = os.stat("/proc/self/ns/net").st_ino
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino != here:
                return setns_path(f"/proc/{pid}/ns/net", host, port)
        except (OSError, Refused) as error:
            outcomes.add(str(error))
    raise Refused("no other: " + ", ".join(sorted(outcomes)))


def setns_passed(host, port):
    call("setns", passed()[0], CLONE["net"])
    return dial(host, port)


def nsenter(path, host, port):
    script = f"import socket,sys; sys.exit(socket.socket().connect_ex(('{host}', {port})))"
    done = subprocess.run(["nsenter", "--net=" + path, sys.executable, "-c", script], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Refused(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode))
    return "a connection"


def unshare(kind):
    call("unshare", CLONE[kind])
    return "a namespace"


def clone(kind):
    child = call("clone", CLONE[kind] | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and "a process"


def clone3(kind):
    arguments = struct.pack("QQQQQQQQQQQ", CLONE[kind], 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    child = call("clone3", ctypes.c_char_p(arguments), len(arguments))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "a process"


def unix(path):
    """Connects to a Unix socket; a name that begins with @ is abstract."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect("\0" + path[1:] if path.startswith("@") else path)
    return sock


def unix_database(path):
    return claim(unix(path), "escaped")


def unix_connect(path):
    unix(path)
    return "connected"


def unix_late(path, ready, go):
    """Says that it is ready, waits to be told that the socket is there, and connects."""
    open(ready, "w").close()
    while not os.path.exists(go):
        time.sleep(0.005)
    os.unlink(ready)
    try:
        unix(path)
    finally:
        os.unlink(go)
    return "connected"


def datagram(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.sendto(b"hi", path)
    return "sent"


def tcp(host, port):
    sock = socket.create_connection((host, port), timeout=5)
    return receive(sock, 2).decode()


def gateway(port):
    """The host's end of this link."""
    with open("/proc/net/route") as routes:
        fields = [line.split() for line in routes.readlines()[1:]]
    hosts = {socket.inet_ntoa(bytes.fromhex(field[2])[::-1]) for field in fields} - {"0.0.0.0"}
    return tcp(hosts.pop(), port)


def all_nodes():
    """Speaks to whoever is on the link by IPv6, which has addresses there without being given any."""
    TENTATIVE = 0x40
    while True:
        with open("/proc/net/if_inet6") as addresses:
            fields = [line.split() for line in addresses if not line.rstrip().endswith(" lo")]
        if not fields:
            raise Refused("no address")
        if not any(int(field[4], 16) & TENTATIVE for field in fields):
            break
        time.sleep(0.05)
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("ff02::1", 9, 0, int(fields[0][1], 16)))
    return "sent"


def made(family, kind, protocol):
    socket.socket(getattr(socket, family), getattr(socket, kind), protocol)
    return "a socket"


def io_uring(host, port):
    """Connects by io_uring alone: no connect(2)."""
    params = ctypes.create_string_buffer(120)
    ring = call("io_uring_setup", 4, params)
    entries, cq_entries = struct.unpack_from("II", params, 0)
    sq_head, sq_tail, sq_mask, _, _, _, sq_array = struct.unpack_from("7I", params, 40)
    cq_head, cq_tail, cq_mask, _, _, cqes = struct.unpack_from("6I", params, 80)
    rings = mmap.mmap(ring, max(sq_array + entries * 4, cqes + cq_entries * 16), offset=0)
    sqes = mmap.mmap(ring, entries * 64, offset=0x10000000)
    sock = socket.socket()
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
    kept = ctypes.create_string_buffer(address, 16)
    IORING_OP_CONNECT = 16
    sqes[0:64] = struct.pack("=BBHiQQII", IORING_OP_CONNECT, 0, 0, sock.fileno(), 16, ctypes.addressof(kept), 0, 0).ljust(64, b"\0")
    tail = struct.unpack_from("I", rings, sq_tail)[0]
    struct.pack_into("I", rings, sq_array, 0)
    struct.pack_into("I", rings, sq_tail, tail + 1)
    call("io_uring_enter", ring, 1, 1, 1, 0, 0)
    head = struct.unpack_from("I", rings, cq_head)[0]
    outcome = struct.unpack_from("=Qi", rings, cqes + (head & struct.unpack_from("I", rings, cq_mask)[0]) * 16)[1]
    if outcome < 0:
        raise OSError(-outcome, os.strerror(-outcome))
    return claim(sock, "escaped")


# --- the cgroup and the kernel side ---

def cgroup_now():
    with open("/proc/self/cgroup") as file:
        return next(line.strip() for line in file if line.startswith("0::"))


def moved(write):
    before = cgroup_now()
    write()
    after = cgroup_now()
    if before == after:
        raise Refused("not moved")
    return after


def cgroup_write(root):
    """Into every cgroup in sight."""
    outcomes = set()
    for directory, _, files in os.walk(root):
        if "cgroup.procs" in files:
            try:
                def write():
                    with open(os.path.join(directory, "cgroup.procs"), "w") as procs:
                        procs.write(str(os.getpid()))
                return moved(write)
            except (OSError, Refused) as error:
                outcomes.add(str(error))
    raise Refused("no way: " + ", ".join(sorted(outcomes)))


def cgroup_mount(at):
    os.makedirs(at, exist_ok=True)
    call("mount", b"cgroup2", at.encode(), b"cgroup2", 0, 0)
    try:
        return cgroup_write(at)
    finally:
        call("umount2", at.encode(), 2)


def cgroup_fsmount():
    context = call("fsopen", b"cgroup2", 0)
    call("fsconfig", context, 6, 0, 0, 0)
    mounted = call("fsmount", context, 0, 0)
    return cgroup_write(f"/proc/self/fd/{mounted}/.")


def cgroup_clone3():
    """A child that begins in the cgroup of a passed directory."""
    CLONE_INTO_CGROUP = 0x200000000
    before = cgroup_now()
    arguments = struct.pack("QQQQQQQQQQQ", CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, passed()[0])
    child = call("clone3", ctypes.c_char_p(arguments), len(arguments))
    if child == 0:
        os._exit(0 if cgroup_now() != before else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise Refused("not moved")
    return "a process elsewhere"


def bpf(command, attributes):
    space = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    return call("bpf", command, space, 128)


def bpf_get(path):
    name = ctypes.create_string_buffer(path.encode())
    bpf(7, struct.pack("Q", ctypes.addressof(name)))
    return "an object"


def bpf_link(id):
    bpf(30, struct.pack("I", id))
    return "a link"


def bpf_next(command):
    bpf(command, struct.pack("I", 0))
    return "an id"


def bpf_map_create():
    bpf(0, struct.pack("IIII", 2, 4, 4, 1))
    return "a map"


def unpin(path):
    os.unlink(path)
    return "gone"


def bpf_mount(at):
    os.makedirs(at, exist_ok=True)
    call("mount", b"bpf", at.encode(), b"bpf", 0, 0)
    seen = os.listdir(at)
    call("umount2", at.encode(), 2)
    return str(seen)


# --- files ---

def umount_each(paths):
    outcomes = set()
    for path in paths:
        for flags in (0, 2):
            try:
                call("umount2", path.encode(), flags)
                return path
            except OSError as error:
                outcomes.add(errno.errorcode[error.errno])
    raise Refused(", ".join(sorted(outcomes)))


def mounting(which, at):
    os.makedirs(at, exist_ok=True)
    at = at.encode()
    fd = os.open(at, os.O_PATH)
    if which == "mount":
        call("mount", b"tmpfs", at, b"tmpfs", 0, 0)
        call("umount2", at, 2)
    elif which == "bind":
        call("mount", b"/", at, 0, 4096, 0)
        call("umount2", at, 2)
    elif which == "remount":
        call("mount", 0, b"/", 0, 32 | 4096, 0)
    elif which == "open_tree":
        call("open_tree", fd, b"/", 1)
    elif which == "move_mount":
        tree = call("open_tree", fd, b"/", 1)
        call("move_mount", tree, b"", -100, at, 4)
        call("umount2", at, 2)
    elif which == "fsopen":
        call("fsopen", b"tmpfs", 0)
    elif which == "mount_setattr":
        call("mount_setattr", -100, b"/", 0, ctypes.c_char_p(bytes(32)), 32)
    elif which == "chroot":
        call("chroot", b"/")
    elif which == "pivot_root":
        call("mount", b"tmpfs", at, b"tmpfs", 0, 0)
        os.chdir(at)
        call("pivot_root", b".", b".")
    return "done"


def handle_of(path):
    """How a file is called by its number, and on which mount."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mounted = ctypes.c_int(0)
    call("name_to_handle_at", -100, path.encode(), handle, ctypes.byref(mounted), 0)
    size, kind = struct.unpack_from("Ii", handle.raw)
    return json.dumps([size, kind, handle.raw[8:8 + size].hex()])


def open_by_handle(handle, mount, name):
    size, kind, text = handle
    raw = ctypes.create_string_buffer(struct.pack("Ii", size, kind) + bytes.fromhex(text))
    at = os.open(mount, os.O_RDONLY)
    fd = call("open_by_handle_at", at, raw, os.O_RDONLY | os.O_DIRECTORY)
    found = os.open(name, os.O_RDONLY, dir_fd=fd)
    return os.read(found, 100).decode()


def read(path):
    with open(path) as file:
        return file.read(100)


def write(path):
    with open(path, "a") as file:
        file.write("x")
    return "written"


def open_to_write(path):
    os.close(os.open(path, os.O_WRONLY))
    return "open"


def open_to_read(path):
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return "open"


def make_device(path):
    """The kernel's log."""
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 11))
    os.unlink(path)
    return "made"


def rename(path, to):
    os.rename(path, to)
    os.rename(to, path)
    return "renamed"


def create(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)
    return "made"


def listed(path):
    return ",".join(sorted(os.listdir(path))) or "nothing"


def descriptors(process, name):
    """What lies in directories that a process has open."""
    for fd in os.listdir(f"/proc/{process}/fd"):
        try:
            return read(f"/proc/{process}/fd/{fd}/{name}")
        except OSError:
            pass
    raise Refused("not there")


# --- processes ---

def kill(pid, number):
    os.kill(pid, number)
    return "sent"


def pidfd(pid):
    fd = call("pidfd_open", pid, 0)
    call("pidfd_send_signal", fd, 0, 0, 0)
    return "reached"


def pidfd_getfd(pid):
    fd = call("pidfd_open", pid, 0)
    call("pidfd_getfd", fd, 2, 0)
    return "a descriptor"


def ptrace(pid):
    PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
    call("ptrace", PTRACE_SEIZE, pid, 0, 0)
    call("ptrace", PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    call("ptrace", PTRACE_DETACH, pid, 0, 0)
    return "attached"


def mem(pid):
    with open(f"/proc/{pid}/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        return memory.read(4).hex()


def fds(pid):
    return str(len(os.listdir(f"/proc/{pid}/fd")) > 0)


def root_of(pid):
    return listed(f"/proc/{pid}/root/")


def vm(which, pid, address):
    """Reads or writes nothing at all: whether it is allowed is checked all the same."""
    local = ctypes.create_string_buffer(1)
    here = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(local), 1), 16)
    there = ctypes.create_string_buffer(struct.pack("QQ", address, 1), 16)
    try:
        call(which, pid, here, 1, there, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
    return "allowed"


def in_sight():
    """The programs of all processes that can be seen."""
    programs = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            programs.append(open(f"/proc/{pid}/comm").read().strip())
        except (FileNotFoundError, ProcessLookupError):
            # Ended since, as processes of a busy machine do.
            pass
    return ",".join(sorted(programs))


def add_key():
    """A key in a keyring of the user's, which all of its processes have."""
    KEY_SPEC_USER_KEYRING, KEYCTL_UNLINK = -4, 9
    key = call("add_key", b"user", b"bailiff-test", b"x", 1, KEY_SPEC_USER_KEYRING)
    call("keyctl", KEYCTL_UNLINK, key, KEY_SPEC_USER_KEYRING, 0, 0)
    return "a key"


def keyctl():
    call("keyctl", 0, -4, 1, 0, 0)
    return "a keyring"


def request_key():
    try:
        call("request_key", b"user", b"bailiff-none", 0, 0)
    except OSError as error:
        if error.errno != errno.ENOKEY:
            raise
    return "asked"


def userfaultfd():
    call("userfaultfd", os.O_CLOEXEC)
    return "a descriptor"


def perf():
    """Counts what the calling process does."""
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0).ljust(112, b"\0"), 112)
    call("perf_event_open", attributes, 0, -1, -1, 0)
    return "a descriptor"


def module(which):
    if which == "init_module":
        call("init_module", ctypes.c_char_p(b"x"), 1, b"")
    elif which == "finit_module":
        call("finit_module", os.open("/dev/null", os.O_RDONLY), b"", 0)
    else:
        call("delete_module", b"bailiff_none", 0)
    return "done"


def set_user_id(program):
    done = subprocess.run([program, "-u"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.stdout.strip() != "0":
        raise Refused(done.stdout.strip() or done.stderr.strip())
    return "root"


def type_ahead():
    import fcntl, termios
    for character in b"escaped\n":
        fcntl.ioctl(0, termios.TIOCSTI, bytes([character]))
    return "typed"


def daemon(mark, marker):
    """Leaves a process behind that nobody waits for, with no descriptor of ours."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(0, 3):
                os.close(fd)
            os.execv(sys.executable, [sys.executable, "-c",
                     f"import time; open({mark!r},'w').write('x'); time.sleep(600) # {marker}"])
        os._exit(0)
    os.wait()
    while not os.path.exists(mark):
        time.sleep(0.01)
    return "left behind"


def tried(attempt, arguments):
    """In a process of its own, since an attempt that succeeds changes the one that makes it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        told = {}
        try:
            told["got"] = globals()[attempt](**arguments)
        except OSError as error:
            told["refused"] = errno.errorcode.get(error.errno, str(error)) if error.errno else str(error)
        except Refused as error:
            told["refused"] = str(error)
        except BaseException as error:
            told["refused"] = repr(error)
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told or b'{"refused": "the process ended"}')


def main():
    asked = json.loads(sys.argv[1])
    told = {"told": [tried(attempt, arguments) for attempt, arguments in asked["attempts"]]}
    if asked["then"]:
        host, port = asked["then"]
        then = tried("dial", {"host": host, "port": port, "table": "escaped_then"})
        told["then"] = then.get("got") or then["refused"]
    print(json.dumps(told), flush=True)


main()

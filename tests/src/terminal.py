"""Runs a program on a terminal of its own, types and waits as it is told, and tells all that was printed and how it ended."""
import fcntl, json, os, pty, select, signal, struct, sys, termios, time

asked = json.loads(sys.argv[1])
child, terminal = pty.fork()
if child == 0:
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    os.chdir(asked["directory"])
    os.execvp(asked["command"][0], asked["command"])
seen, read, missing = b"", 0, None


def more():
    global seen
    if not select.select([terminal], [], [], 60)[0]:
        return False
    try:
        data = os.read(terminal, 65536)
    except OSError:
        data = b""
    seen += data
    return bool(data)


for step, *words in asked["steps"]:
    if step == "expect":
        wanted = words[0].encode()
        while seen.find(wanted, read) < 0 and more():
            pass
        at = seen.find(wanted, read)
        if at < 0:
            missing = words[0]
            break
        read = at + len(wanted)
    elif step == "send":
        os.write(terminal, words[0].encode())
    elif step == "resize":
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", words[0], words[1], 0, 0))
if missing is not None:
    os.close(terminal)
    os.kill(child, signal.SIGKILL)
while missing is None and more():
    pass
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({"text": seen.decode(errors="replace"), "status": status, "missing": missing}))

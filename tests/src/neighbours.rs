//! Kernel programs of somebody else on the hooks that Bailiff uses.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Loads a program that refuses connects to port 9999 and lets all others through, attaches it beside others to connect4 of
/// a cgroup, prints its number, and keeps it there until standard input ends.
const NEIGHBOUR: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = libc.syscall(321, command, buffer, 128)
    if result < 0: sys.exit(f'bpf {command}: {os.strerror(ctypes.get_errno())}')
    return result, buffer.raw
def insn(code, dst=0, src=0, off=0, imm=0): return struct.pack('<BBhi', code, dst | src << 4, off, imm)
port = int.from_bytes((9999).to_bytes(2, 'big'), 'little')
code = insn(0x61, 2, 1, 24) + insn(0xb7, 0, 0, 0, 1) + insn(0x55, 2, 0, 1, port) + insn(0xb7, 0, 0, 0, 0) + insn(0x95)
insns = ctypes.create_string_buffer(code)
licence = ctypes.create_string_buffer(b'GPL')
CGROUP_SOCK_ADDR, INET4_CONNECT, ALLOW_MULTI = 18, 10, 2
program, _ = bpf(5, struct.pack('<IIQQIIQII16sII', CGROUP_SOCK_ADDR, len(code) // 8, ctypes.addressof(insns), ctypes.addressof(licence),
    0, 0, 0, 0, 0, b'neighbour', 0, INET4_CONNECT))
cgroup = os.open(sys.argv[1], os.O_RDONLY)
bpf(8, struct.pack('<IIII', cgroup, program, INET4_CONNECT, ALLOW_MULTI))
info = ctypes.create_string_buffer(256)
bpf(15, struct.pack('<IIQ', program, 256, ctypes.addressof(info)))
print(struct.unpack_from('<I', info.raw, 4)[0], flush=True)
sys.stdin.read()
bpf(9, struct.pack('<IIII', cgroup, program, INET4_CONNECT, 0))
"#;

/// A program of somebody else, attached until this is dropped.
#[derive(Debug)]
pub struct Neighbour {
    child: Child,
    id: u32,
}

impl Neighbour {
    /// Attaches one to a cgroup's connect4: connects to port 9999 fail with EPERM.
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let mut child = Command::new("python3")
            .args(["-c", NEIGHBOUR])
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let id = line
            .trim()
            .parse()
            .context("the neighbour's program can't be attached")?;
        Ok(Self { child, id })
    }

    /// Its program's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Detaches it; fails if it was no longer attached.
    pub fn detach(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the neighbour's program was taken off its hook");
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

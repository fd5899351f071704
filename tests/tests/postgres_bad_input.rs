//! Hostile bytes close that one connection, with a reason in the log and in the metrics, and nobody else's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Lab};

/// A client that says what it shouldn't. After each, a session that was open before still answers.
const CLIENT: &str = r#"
import socket, struct, sys
def dial():
    s = socket.create_connection((sys.argv[1], 5432)); s.settimeout(10); return s
def message(tag, body): return tag + struct.pack('!i', len(body) + 4) + body
def start(s):
    body = struct.pack('!i', 196608) + b'user\0postgres\0database\0postgres\0\0'
    s.sendall(struct.pack('!i', len(body) + 4) + body)
    until(s, b'Z\0\0\0\5I')
    return s
def until(s, end):
    got = b''
    while not got.endswith(end):
        more = s.recv(65536)
        if not more: return got
        got += more
    return got
def ended(s):
    got = b''
    try:
        while True:
            more = s.recv(65536)
            if not more: break
            got += more
    except ConnectionResetError: pass
    return got
beside = start(dial())
def after(name, s, wanted):
    got = ended(s)
    assert wanted in got, (name, got)
    beside.sendall(message(b'Q', b'select 41 + 1\0'))
    assert b'42' in until(beside, b'Z\0\0\0\5I'), name
    print(name, flush=True)
def ready(name, bytes, wanted=b'08P01'):
    s = start(dial()); s.sendall(bytes); after(name, s, wanted)
def first(name, bytes, wanted=b''):
    s = dial(); s.sendall(bytes); after(name, s, wanted)
first('a startup packet of 2 GiB', b'\x7f\xff\xff\xff', b'08P01')
first('a startup packet of 3 bytes', b'\0\0\0\3', b'08P01')
first('protocol 9', struct.pack('!ii', 9, 9 << 16) + b'\0', b'08P01')
first('a startup packet without its end', struct.pack('!ii', 13, 196608) + b'user\0', b'08P01')
first('direct TLS', b'\x16\x03\x01\0\x05hello', b'0A000')
first('plain bytes behind SSLRequest', struct.pack('!ii', 8, 80877103) + b'Q\0\0\0\4', b'08P01')
first('an answer before a question', message(b'Q', b'select 1\0'), b'08P01')
ready('a length of 3', b'Q\0\0\0\3')
ready('a negative length', b'Q\xff\xff\xff\xff')
ready('a query of 2 GiB', b'Q\x7f\xff\xff\xff')
ready('a query over the cap', b'Q' + struct.pack('!i', (1 << 20) + 1))
ready('an unknown tag', b'!\0\0\0\4')
ready('a query without its end', message(b'Q', b'select 1'))
ready('bytes behind a query', message(b'Q', b'select 1\0more'))
ready('a parse that ends early', message(b'P', b'a\0select 1\0\0\5'))
ready('a bind with a negative value', message(b'B', b'\0\0\0\0\0\1\xff\xff\xff\xf0\0\0'))
ready('a describe of nothing', message(b'D', b'Xa\0'))
ready('a password after authentication', message(b'p', b'secret\0'))
# Many statements that are never answered: the client is held back, not the memory filled.
s = start(dial())
s.settimeout(0.2)
flood = message(b'P', b'\0select 1\0\0\0') * 1000
sent = 0
try:
    for _ in range(200):
        s.sendall(flood); sent += 1000
except TimeoutError: pass
s.close()
print('flooded', sent > 16000, flush=True)
sys.stdin.read()
"#;

#[test]
fn bad_messages_close_that_one_connection_and_say_why() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut child = lab
        .enforced
        .run_with(
            &["--admin", &admin.to_string()],
            &["python3", "-c", CLIENT, lab.server.address()],
        )?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().context("no output")?);
    while lines.read_line(&mut said)? > 0 && !said.contains("flooded") {}
    let mut metrics = String::new();
    let mut http = TcpStream::connect(admin)?;
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
    http.read_to_string(&mut metrics)?;
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.lines().count() == 19 && said.contains("flooded True"),
        "{said}\n{log}"
    );
    for reason in [
        "oversized",
        "bad_length",
        "unknown_tag",
        "truncated",
        "trailing_bytes",
        "bad_field",
        "out_of_order",
    ] {
        let counted = format!("bailiff_sessions_ended_total{{offender=\"client\",reason=\"{reason}\"}}");
        ensure!(metrics.contains(&counted), "{reason}: {metrics}");
        ensure!(log.contains(reason), "{reason}: {log}");
    }
    ensure!(
        !log.contains("secret") && metrics.contains("bailiff_build_info"),
        "{log}"
    );
    Ok(())
}

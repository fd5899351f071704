//! From whom a process descends is told by who forked whom: through double forks, programs that are executed, processes that have ended, and numbers that
//! are used again. What wasn't seen is a gap that shows.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use bailiff_common::{EndedKey, Process};
use bailiff_kernel::Origin;
use bailiff_model::{Ancestor, FailureMode};
use bailiff_tests::{KernelLab, Talk};

/// A process that does what it is told, and its descendants, each of whom connects once and stays.
const SCRIPT: &str = "
import json, os, signal
def connect():
    s = socket.create_connection(('10.9.8.7', 5432)); s.recv(1); signal.pause()
def fork(child):
    pid = os.fork()
    if pid == 0:
        try: child()
        finally: os._exit(1)
    return pid
def daemon():
    os.setsid()
    fork(connect)
    os._exit(0)
r, w = os.pipe()
def waiting():
    fork(wait)
    os._exit(0)
def wait(): os.read(r, 1); connect()
def shell(then): os.execvp('sh', ['sh', '-c', then])
say('ready')
while True:
    exec(json.loads(hear())); say('done')";

fn lab(name: &str) -> Result<Option<KernelLab>> {
    KernelLab::new(name, FailureMode::Closed)
}

fn tell(by: &mut Talk, what: &str) -> Result<()> {
    by.say(&serde_json::to_string(what)?)
}

/// Has the process do something, in which somebody connects; returns what is known of whoever does.
fn connected(lab: &KernelLab, by: &mut Talk, what: &str) -> Result<Origin> {
    tell(by, what)?;
    let origin = lab.accept(0)?.context("a connection that nobody made")?;
    ensure!(by.hear()? == "done");
    Ok(origin)
}

fn started(lab: &KernelLab) -> Result<Talk> {
    let mut process = lab.talk("pods/a/main", SCRIPT)?;
    ensure!(process.hear()? == "ready");
    Ok(process)
}

fn numbers(origin: &Origin) -> Vec<u32> {
    let processes = &origin.ancestry.processes;
    processes.iter().map(|ancestor| ancestor.id.tgid).collect()
}

fn program(ancestor: &Ancestor) -> &str {
    let path = ancestor.executable.as_deref().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

#[test]
fn the_first_process_has_no_ancestors_and_its_children_lead_up_to_it() -> Result<()> {
    let Some(lab) = lab("tree")? else { return Ok(()) };
    let mut first = started(&lab)?;
    let child = connected(&lab, &mut first, "fork(connect)")?;
    ensure!(
        numbers(&child) == [first.pid()] && child.ancestry.complete,
        "{child:?}"
    );
    ensure!(
        child
            .ancestry
            .processes
            .iter()
            .all(|process| !process.ended && !process.found)
    );
    // A shell that starts another program, which connects.
    let grandchild = connected(
        &lab,
        &mut first,
        "fork(lambda: shell('python3 -c \"import socket, signal; s = socket.create_connection((\\'10.9.8.7\\', 5432)); signal.pause()\"; :'))",
    )?;
    let programs: Vec<&str> = grandchild.ancestry.processes.iter().map(program).collect();
    ensure!(
        programs == ["sh", "python3"] && grandchild.ancestry.complete,
        "{grandchild:?}"
    );
    // Itself, at last.
    let alone = connected(
        &lab,
        &mut first,
        "s = socket.create_connection(('10.9.8.7', 5432))",
    )?;
    ensure!(
        alone.process.tgid == first.pid() && numbers(&alone).is_empty() && alone.ancestry.complete,
        "{alone:?}"
    );
    Ok(())
}

#[test]
fn who_forks_twice_leads_up_to_whoever_began() -> Result<()> {
    let Some(lab) = lab("daemon")? else { return Ok(()) };
    let mut first = started(&lab)?;
    let daemon = connected(&lab, &mut first, "middle = fork(daemon); os.waitpid(middle, 0)")?;
    tell(&mut first, "say(middle)")?;
    let middle: u32 = first.hear()?.parse()?;
    ensure!(
        numbers(&daemon) == [middle, first.pid()] && daemon.ancestry.complete,
        "{daemon:?}"
    );
    let ended: Vec<bool> = daemon
        .ancestry
        .processes
        .iter()
        .map(|process| process.ended)
        .collect();
    ensure!(ended == [true, false], "{daemon:?}");
    Ok(())
}

#[test]
fn what_a_session_leaves_behind_leads_up_to_it() -> Result<()> {
    let Some(lab) = lab("session")? else { return Ok(()) };
    // As exec does it: a process from outside enters, starts something, and ends.
    let left = "
import time
me = os.getpid()
def left():
    while os.getppid() == me: time.sleep(0.001)
    connect()
fork(left); hear(); os._exit(0)";
    let script = SCRIPT.replace("say('ready')", left);
    let mut session = lab.talk("pods/a/main", &script)?;
    session.say("")?;
    let origin = lab.accept(0)?.context("a connection that nobody made")?;
    ensure!(
        numbers(&origin) == [session.pid()] && origin.ancestry.complete,
        "{origin:?}"
    );
    ensure!(
        origin.ancestry.processes.iter().all(|process| process.ended),
        "{origin:?}"
    );
    Ok(())
}

fn ended(lab: &KernelLab) -> Result<HashMap<MapData, EndedKey, Process>> {
    let path = lab
        .pins()
        .join(format!("maps-v{}/ENDED", bailiff_common::ABI_VERSION));
    Ok(Map::LruHashMap(MapData::from_pin(path)?).try_into()?)
}

#[test]
fn a_number_that_is_used_again_is_another_process() -> Result<()> {
    let Some(lab) = lab("reuse")? else { return Ok(()) };
    let mut first = started(&lab)?;
    tell(&mut first, "middle = fork(waiting); os.waitpid(middle, 0)")?;
    ensure!(first.hear()? == "done");
    // clone3 takes the number that its child is to have, while nobody else on the machine has it.
    let script = "
import ctypes, struct
number = ctypes.c_int(middle)
arguments = struct.pack('QQQQQQQQQQQ', 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1, 0)
child = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, len(arguments))
if child == 0: connect()
if child != middle: say(child, ctypes.get_errno())";
    let again = connected(&lab, &mut first, script)?;
    ensure!(
        numbers(&again) == [first.pid()] && again.ancestry.complete,
        "{again:?}"
    );
    let orphan = connected(&lab, &mut first, "os.write(w, b'x')")?;
    ensure!(
        numbers(&orphan) == [again.process.tgid, first.pid()] && orphan.ancestry.complete,
        "{orphan:?}"
    );
    let middle = orphan.ancestry.processes.first().context("no ancestor")?;
    ensure!(
        middle.ended && middle.id.start_ns < again.process.start_ns,
        "{middle:?} {again:?}"
    );
    Ok(())
}

#[test]
fn what_is_forgotten_is_a_gap_that_shows() -> Result<()> {
    let Some(lab) = lab("gap")? else { return Ok(()) };
    let mut first = started(&lab)?;
    tell(&mut first, "middle = fork(waiting); os.waitpid(middle, 0)")?;
    ensure!(first.hear()? == "done");
    let mut ended = ended(&lab)?;
    let keys: Vec<EndedKey> = ended.keys().flatten().collect();
    ensure!(!keys.is_empty());
    for key in keys {
        ended.remove(&key)?;
    }
    let orphan = connected(&lab, &mut first, "os.write(w, b'x')")?;
    ensure!(
        numbers(&orphan).is_empty() && !orphan.ancestry.complete,
        "{orphan:?}"
    );
    Ok(())
}

#[test]
fn those_that_ran_before_are_found() -> Result<()> {
    let Some(mut lab) = KernelLab::without_redirect("scan", FailureMode::Closed)? else {
        return Ok(());
    };
    let mut first = started(&lab)?;
    let script = "
def later(): os.read(r, 1); fork(connect); signal.pause()
middle = fork(later); say(middle)";
    tell(&mut first, script)?;
    let middle: u32 = first.hear()?.parse()?;
    ensure!(first.hear()? == "done");
    lab.enforce()?;
    let child = connected(&lab, &mut first, "os.write(w, b'x')")?;
    ensure!(
        numbers(&child) == [middle, first.pid()] && child.ancestry.complete,
        "{child:?}"
    );
    let processes = &child.ancestry.processes;
    ensure!(
        processes.iter().all(|process| process.found && !process.ended)
            && processes
                .iter()
                .map(program)
                .all(|name| name.starts_with("python3")),
        "{child:?}"
    );
    Ok(())
}

#[test]
fn who_forks_without_end_is_followed_so_far() -> Result<()> {
    let Some(lab) = lab("deep")? else { return Ok(()) };
    let mut first = started(&lab)?;
    let deep = connected(
        &lab,
        &mut first,
        "
def deeper(left):
    if left == 0: connect()
    fork(lambda: deeper(left - 1)); signal.pause()
fork(lambda: deeper(50))",
    )?;
    ensure!(
        deep.ancestry.processes.len() == 32 && !deep.ancestry.complete,
        "{deep:?}"
    );
    Ok(())
}

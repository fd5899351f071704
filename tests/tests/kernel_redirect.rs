//! The redirect with real sockets in a sandbox of its own.

use std::io::Write as _;
use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{Options, Redirect};
use bailiff_model::{FailureMode, OriginalDst};
use bailiff_tests::KernelLab;

#[test]
fn ipv4_ipv6_and_mapped_are_diverted_with_their_origins() -> Result<()> {
    let Some(lab) = KernelLab::new("families", FailureMode::Closed)? else {
        return Ok(());
    };
    for (address, listener, destination) in [
        ("10.9.8.7", 0, "10.9.8.7:5432"),
        ("fd00:9::7", 1, "[fd00:9::7]:5432"),
        ("::ffff:10.9.8.7", 0, "10.9.8.7:5432"),
    ] {
        let child = lab.python("pods/a/main", &format!("print(dial('{address}'))"))?;
        let pid = child.id();
        let origin = lab.accept(listener)?.context("no origin")?;
        ensure!(
            origin.original == OriginalDst::new(destination.parse()?),
            "{origin:?}"
        );
        ensure!(
            origin.process.tgid == pid && origin.comm == "python3" && origin.creator.is_none(),
            "{origin:?}"
        );
        ensure!(origin.pod_cgroup == lab.cgroup_id("pods/a")?, "{origin:?}");
        ensure!(
            KernelLab::answer(child)? == format!("('{address}', 5432)"),
            "getpeername shows what was asked for"
        );
    }
    ensure!(lab.counted("diverted") == 3 && lab.counted("origin_lost") == 0);
    Ok(())
}

#[test]
fn clients_with_their_own_source_address_and_port_are_told_apart() -> Result<()> {
    let Some(lab) = KernelLab::new("sources", FailureMode::Closed)? else {
        return Ok(());
    };
    for source in ["127.0.0.1", "127.0.0.2"] {
        let child = lab.python(
            "pods/a/main",
            &format!("print(dial('10.9.8.7', source=('{source}', 7001)))"),
        )?;
        let pid = child.id();
        let origin = lab.accept(0)?.context("no origin")?;
        ensure!(origin.process.tgid == pid, "{origin:?}");
        ensure!(KernelLab::answer(child)? == "('10.9.8.7', 5432)");
    }
    Ok(())
}

#[test]
fn what_must_not_pass_is_refused_and_counted() -> Result<()> {
    let Some(mut lab) = KernelLab::new("refused", FailureMode::Closed)? else {
        return Ok(());
    };
    let print = |call: &str| format!("print({call})");
    let stranger = lab.python("pods/stranger", &print("dial('10.9.8.7')"))?;
    ensure!(
        KernelLab::answer(stranger)? == "ECONNREFUSED",
        "a cgroup that isn't enrolled"
    );
    let direct = lab.python(
        "pods/a/main",
        &print(&format!("dial('127.0.0.1', {})", lab.port())),
    )?;
    ensure!(
        KernelLab::answer(direct)? == "ECONNREFUSED",
        "a direct dial of the listener"
    );
    let nested = lab.netns().run_in(NetnsFd::create)??;
    let outer = lab.swap_netns(nested);
    let inner = lab.python("pods/a/main", &print("dial('10.9.8.7')"))?;
    ensure!(
        KernelLab::answer(inner)? == "ECONNREFUSED",
        "another namespace in the pod's cgroup"
    );
    lab.swap_netns(outer);
    drop(lab.take_listeners());
    let gone = lab.python("pods/a/main", &print("dial('10.9.8.7')"))?;
    ensure!(KernelLab::answer(gone)? == "ECONNREFUSED", "the listener gone");
    for event in [
        "refused_unenrolled",
        "refused_listener",
        "refused_namespace",
        "refused_agent",
    ] {
        ensure!(lab.counted(event) == 1, "{event}: {}", lab.counted(event));
    }
    Ok(())
}

#[test]
fn with_failure_mode_open_a_missing_agent_lets_connections_go_direct() -> Result<()> {
    let Some(mut lab) = KernelLab::new("open", FailureMode::Open)? else {
        return Ok(());
    };
    lab.own_protected_address()?;
    let server = lab.netns().run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
    drop(lab.take_listeners());
    let child = lab.python("pods/a/main", "print(dial('10.9.8.7'))")?;
    let (mut connection, _) = server.accept()?;
    connection.write_all(b"x")?;
    ensure!(KernelLab::answer(child)? == "('10.9.8.7', 5432)");
    ensure!(lab.counted("direct") == 1);
    Ok(())
}

#[test]
fn udp_and_raw_sockets_to_a_protected_address_are_dropped() -> Result<()> {
    let Some(lab) = KernelLab::new("side-doors", FailureMode::Closed)? else {
        return Ok(());
    };
    lab.own_protected_address()?;
    let script = "
def tried(f):
    try: return f()
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
r = socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)
i = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
print(tried(lambda: u.sendto(b'x', ('10.9.8.7', 53))), tried(lambda: r.sendto(bytes([0,1,0x15,0x38]+[0]*8+[0x50,2]+[0]*6), ('10.9.8.7', 0))), tried(lambda: i.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', ('10.9.8.7', 0))))
";
    ensure!(KernelLab::answer(lab.python("pods/a/main", script)?)? == "EPERM EPERM EPERM");
    ensure!(lab.counted("guard_dropped") == 3);
    Ok(())
}

#[test]
fn a_second_agent_takes_over_and_removal_leaves_nothing() -> Result<()> {
    let Some(mut lab) = KernelLab::new("takeover", FailureMode::Closed)? else {
        return Ok(());
    };
    let first = lab.swap_redirect(None);
    let second = Redirect::load(lab.options()?)?;
    drop(first);
    lab.swap_redirect(Some(second));
    let child = lab.python("pods/a/main", "print(dial('10.9.8.7'))")?;
    ensure!(
        lab.accept(0)?.is_some(),
        "targets and enrolments outlive an agent"
    );
    ensure!(KernelLab::answer(child)? == "('10.9.8.7', 5432)");
    lab.swap_redirect(None).context("no second agent")?.remove()?;
    ensure!(!lab.pins().exists(), "pins are left");
    let child = lab.python("pods/a/main", "print(dial('10.9.8.7'))")?;
    ensure!(
        KernelLab::answer(child)? != "('10.9.8.7', 5432)",
        "nothing diverts after removal"
    );
    Ok(())
}

#[test]
fn an_instance_that_ends_leaves_anothers_pins_in_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut labs = Vec::new();
    for name in ["ends", "goes-on"] {
        let Some(mut lab) = KernelLab::without_redirect(name, FailureMode::Closed)? else {
            return Ok(());
        };
        // The first one mounts a bpf file system there.
        lab.enforce_with(Options {
            pins: folder.path().join(name),
            ..lab.options()?
        })?;
        labs.push(lab);
    }
    drop(labs.remove(0));
    let lab = labs.remove(0);
    let child = lab.python("pods/a/main", "print(dial('10.9.8.7'))")?;
    ensure!(lab.accept(0)?.is_some());
    ensure!(KernelLab::answer(child)? == "('10.9.8.7', 5432)");
    drop(lab);
    ensure!(
        std::fs::read_dir(folder.path())?
            .flatten()
            .all(|entry| { entry.file_name().to_string_lossy().ends_with(".debug") })
    );
    nix::mount::umount(folder.path())?;
    Ok(())
}

//! Unix sockets of the host: databases', container runtimes', message buses'.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Attempt, Escape};
use serde_json::json;

#[test]
fn the_databases_socket_in_the_file_system() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    // Where nothing is hidden by being made anew, as /run and /tmp are.
    let directory = Directory::new("/var/lib")?;
    std::os::unix::fs::chown(directory.path(), Some(0), None)?;
    open_to_all(directory.path())?;
    let place = directory.path().display().to_string();
    escape.lab.server.listen_also(&[], &[&place])?;
    escape.leads_nowhere(connecting(&format!("{place}/.s.PGSQL.5432")), &["ECONNREFUSED"])
}

#[test]
fn the_databases_socket_without_a_file() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let name = format!("@bailiff-test-{}", std::process::id());
    escape.lab.server.listen_also(&[], &[&name])?;
    escape.leads_nowhere(connecting(&format!("{name}/.s.PGSQL.5432")), &["ECONNREFUSED"])
}

#[test]
fn the_databases_socket_where_the_command_may_write() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let place = escape.place().join("sockets");
    std::fs::create_dir(&place)?;
    open_to_all(&place)?;
    let place = place.display().to_string();
    escape.lab.server.listen_also(&[], &[&place])?;
    // Something that isn't a socket and can't be written lies over it.
    escape.leads_nowhere(
        connecting(&format!("{place}/.s.PGSQL.5432")),
        &["ECONNREFUSED", "EACCES"],
    )
}

/// A stand-in listens where the service would, unless the service does.
#[test]
fn container_runtimes_and_message_buses() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let user = std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| "/run/user/0".to_owned());
    let places = [
        "/run/docker.sock".to_owned(),
        "/var/run/docker.sock".to_owned(),
        "/run/containerd/containerd.sock".to_owned(),
        "/run/crio/crio.sock".to_owned(),
        "/run/podman/podman.sock".to_owned(),
        "/run/dbus/system_bus_socket".to_owned(),
        "/run/systemd/private".to_owned(),
        format!("{user}/bus"),
        format!("{user}/systemd/private"),
        "/var/lib/bailiff-test-service/api.sock".to_owned(),
        "/opt/bailiff-test-service/api.sock".to_owned(),
        "/tmp/bailiff-test-service/api.sock".to_owned(),
        "/dev/shm/bailiff-test-service.sock".to_owned(),
    ];
    let mut services = Vec::new();
    for place in &places {
        services.push(Service::at(Path::new(place))?);
    }
    let mut attempts: Vec<Attempt<'_>> = places
        .iter()
        .map(|place| ("unix_connect", json!({ "path": place })))
        .collect();
    // By another name of the same directory.
    attempts.push((
        "unix_connect",
        json!({ "path": "/proc/self/root/run/docker.sock" }),
    ));
    ensure!(escape.succeed(&attempts)?.iter().all(|got| got == "connected"));
    escape.fail(&attempts, &["ECONNREFUSED", "ENOENT", "EACCES"])?;
    drop(services);
    Ok(())
}

#[test]
fn sockets_without_a_connection() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let directory = Directory::new("/var/lib")?;
    open_to_all(directory.path())?;
    let path = directory.path().join("log");
    let receiver = UnixDatagram::bind(&path)?;
    open_to_all(&path)?;
    let attempts = [("datagram", json!({ "path": path }))];
    escape.succeed(&attempts)?;
    let mut said = [0; 8];
    ensure!(receiver.recv(&mut said)? == 2);
    escape.fail(&attempts, &["ECONNREFUSED"])?;
    receiver.set_nonblocking(true)?;
    ensure!(receiver.recv(&mut said).is_err(), "it came through");
    Ok(())
}

#[test]
fn a_socket_without_a_file() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let name = format!("bailiff-test-abstract-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let attempts = [("unix_connect", json!({ "path": format!("@{name}") }))];
    escape.are_no_ways(&attempts, &["ECONNREFUSED"])?;
    drop(listener);
    Ok(())
}

/// The sandbox is there first; the attempt waits for the socket.
#[test]
fn a_socket_that_appears_after_the_sandbox() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    for place in ["/var/lib", "/opt"] {
        let directory = Directory::new(place)?;
        open_to_all(directory.path())?;
        let path = directory.path().join("late.sock");
        let go = escape.place().join("go");
        let attempts = [(
            "unix_late",
            json!({ "path": path, "ready": escape.place().join("ready"), "go": go }),
        )];
        for inside in [false, true] {
            let outcome = std::thread::scope(|scope| {
                let trying = scope.spawn(|| {
                    if inside {
                        escape.fail(&attempts, &["ECONNREFUSED"])
                    } else {
                        escape.succeed(&attempts).map(|_| ())
                    }
                });
                // Once for each who calls.
                for _ in 0..if inside { 2 } else { 1 } {
                    while !escape.place().join("ready").exists() && !trying.is_finished() {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    let service = Service::at(&path);
                    let _ = std::fs::write(&go, "");
                    while go.exists() && !trying.is_finished() {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    drop(service);
                }
                trying.join()
            });
            outcome.map_err(|_| anyhow::anyhow!("the attempt failed"))??;
        }
    }
    Ok(())
}

fn connecting(path: &str) -> Attempt<'static> {
    ("unix_database", json!({ "path": path }))
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o777),
    )?)
}

/// A directory with a name of its own in a place of the host's.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new(place: &str) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("bailiff-test-")
            .tempdir_in(place)?;
        Ok(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A service that greets whoever connects. What it had to make goes with it.
struct Service {
    made: Vec<PathBuf>,
}

impl Service {
    fn at(path: &Path) -> Result<Self> {
        let mut this = Self { made: Vec::new() };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Ok(this);
        }
        let directory = path.parent().context("no directory")?;
        let missing: Vec<_> = directory
            .ancestors()
            .take_while(|above| !above.exists())
            .collect();
        for missing in missing.into_iter().rev() {
            std::fs::create_dir(missing)?;
            open_to_all(missing)?;
            this.made.push(missing.to_owned());
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
        this.made.push(path.to_owned());
        open_to_all(path)?;
        std::thread::spawn(move || {
            for mut caller in listener.incoming().flatten() {
                let _ = caller.write_all(b"hi");
            }
        });
        Ok(this)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            let _ = if path.is_dir() {
                std::fs::remove_dir(path)
            } else {
                std::fs::remove_file(path)
            };
        }
    }
}

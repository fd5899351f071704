//! The machine after Bailiff. These tests wait until no other process tests on it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bailiff_model::FailureMode;
use bailiff_tests::{ALLOW_ALL, Alone, KernelLab, Lab, Listing, check};
use nix::unistd::Uid;

/// The kernel frees programs and namespaces a while after the last hold on them has gone.
const A_WHILE: Duration = Duration::from_secs(20);

fn nothing_is_left(before: &Listing) -> Result<()> {
    let until = Instant::now() + A_WHILE;
    loop {
        let after = Listing::now()?;
        if after == *before {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "left: {:#?}\ngone: {:#?}",
            after.beyond(before),
            before.beyond(&after)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_machine_is_as_before() -> Result<()> {
    if !Uid::effective().is_root() {
        return bailiff_tests::can_be_root().map(|_| ());
    }
    let alone = Alone::wait()?;

    // The kernel side alone, also after an agent that was replaced.
    let name = format!("bt{}", std::process::id());
    let link = [
        "link",
        "add",
        &name,
        "type",
        "veth",
        "peer",
        "name",
        &format!("{name}p"),
    ];
    check(Command::new("ip").args(link))?;
    let before = Listing::settled()?;
    let mut lab = KernelLab::alone("removal", FailureMode::Closed, &alone)?;
    lab.redirect_mut()?.guard_link(&name)?;
    let first = lab.swap_redirect(None);
    let second = bailiff_kernel::Redirect::load(lab.options()?)?;
    drop(first);
    lab.swap_redirect(Some(second));
    lab.redirect_mut()?.guard_link(&name)?;
    let during = Listing::now()?;
    for kind in ["program", "link", "map", "pin", "cgroup"] {
        ensure!(
            during.beyond(&before).iter().any(|item| item.starts_with(kind)),
            "the listing doesn't show a {kind}"
        );
    }
    if let Some(redirect) = lab.swap_redirect(None) {
        redirect.remove()?;
    }
    drop(lab);
    nothing_is_left(&before)?;
    check(Command::new("ip").args(["link", "del", &name]))?;

    // A whole agent, after sessions.
    let lab = Lab::alone(ALLOW_ALL, "", &alone)?;
    let before = Listing::settled()?;
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    ensure!(client.value("select 1")? == "1");
    ensure!(
        Listing::now()?
            .beyond(&before)
            .iter()
            .any(|item| item.starts_with("netns")),
        "the listing doesn't show a namespace"
    );
    drop(client);
    agent.stop()?;
    nothing_is_left(&before)
}

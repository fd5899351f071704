//! What a `bailiff run` leaves on the machine: nothing, also when it was killed.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Alone, Enforced, Listing, check, is_root, policy, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn one_that_was_killed_is_cleaned_up_at_the_next_start() -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    let _alone = Alone::wait()?;
    let enforced = Enforced::with(&[
        ("target.yaml", &target("10.127.0.2", "")),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    // The first may mount file systems that stay, and removes what others may have left before. What the kernel still frees of
    // earlier tests goes, too; what each run would leave anew doesn't settle.
    let mut before = Listing::settled()?;
    for attempt in 0.. {
        check(&mut enforced.run(&["true"])?)?;
        let after = Listing::settled()?;
        match same(&before, &after) {
            Ok(()) => break,
            Err(error) if attempt == 5 => return Err(error),
            Err(_) => before = after,
        }
    }

    let agents = [enforced.start()?, enforced.start()?];
    let tags = agents.each_ref().map(|agent| format!("{:x}", agent.pid()));
    for agent in agents {
        // Not by the program of that name, which a small machine lacks.
        kill(Pid::from_raw(i32::try_from(agent.pid())?), Signal::SIGKILL)?;
        let (status, _) = agent.wait()?;
        ensure!(!status.success());
    }
    let killed = Listing::settled()?;
    let left = killed.beyond(&before);
    for tag in &tags {
        ensure!(
            left.iter().any(|line| line.ends_with(&format!("bailiff-{tag}"))),
            "{left:?}"
        );
    }
    ensure!(left.iter().any(|line| line.starts_with("pin ")), "{left:?}");

    check(&mut enforced.run(&["true"])?)?;
    let after = Listing::settled()?;
    same(&before, &after)?;
    Ok(())
}

fn same(before: &Listing, after: &Listing) -> Result<()> {
    let (more, gone) = (after.beyond(before), before.beyond(after));
    ensure!(
        more.is_empty() && gone.is_empty(),
        "left behind: {more:?}; taken away: {gone:?}"
    );
    Ok(())
}

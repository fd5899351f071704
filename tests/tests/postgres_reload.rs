//! A changed policy reaches sessions that are open, also what they prepared or opened before, and a broken one changes nothing.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Running, say};

const SECRET: &str = "123-45-6789";

fn masks() -> String {
    format!("{ALLOW_ALL}  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n")
}

/// A server with three people, and an agent that allows everything.
///
/// The server is dialed from the node. From the pod and without TLS a session would end when a mask comes in force, since the
/// pod can read its own wire.
fn people() -> Result<Option<(Lab, Running)>> {
    people_from("  sourceAddress: Node\n")
}

fn people_from(source: &str) -> Result<Option<(Lab, Running)>> {
    let Some(lab) = Lab::new(ALLOW_ALL, source)? else {
        return Ok(None);
    };
    lab.server.sql(&format!(
        "create table people(id int, ssn text); insert into people select n, '{SECRET}' from generate_series(1, 3) n;
         create function opened() returns refcursor language plpgsql as
         $$ declare c refcursor := 'c'; begin open c for select ssn from people; return c; end $$"
    ))?;
    let agent = lab.start()?;
    Ok(Some((lab, agent)))
}

fn tells(messages: &[Message]) -> bool {
    messages.iter().any(|message| {
        message
            .body
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes())
    })
}

fn codes(messages: &[Message]) -> Vec<String> {
    messages.iter().filter_map(Message::sqlstate).collect()
}

fn say(client: &mut Client, messages: &[Vec<u8>]) -> Result<Vec<Message>> {
    client.send(&messages.concat())?;
    client.until_ready()
}

#[test]
fn open_sessions_feel_a_change_at_their_next_statement() -> Result<()> {
    let action = |action: &str| {
        format!("    - {{ name: some, effects: [read], action: {action}, message: not any more }}\n")
    };
    let Some(lab) = Lab::new(&action("Allow"), "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    say(&mut client, &[say::parse("s", "select 'prepared'"), say::sync()])?;
    ensure!(client.value("select 'before'")? == "before");
    lab.change(&agent, "policy.yaml", "kind: nonsense")?;
    ensure!(
        client.value("select 'still'")? == "still",
        "a broken file leaves the policy as it was"
    );
    ensure!(agent.metric("bailiff_policy_reload_errors_total")? == 1);

    lab.change_rules(&agent, &action("Deny"))?;
    let run = [say::bind("", "s"), say::execute("", 0), say::sync()];
    for said in [client.ask("select 'after'")?, say(&mut client, &run)?] {
        let error = said
            .iter()
            .find(|message| message.tag == b'E')
            .with_context(|| format!("{said:?}"))?;
        ensure!(
            error.sqlstate().as_deref() == Some("42501")
                && error.field(b'M').as_deref() == Some("not any more")
                && error
                    .field(b'D')
                    .is_some_and(|detail| detail.contains("policy tested, rule some")),
            "{error:?}"
        );
    }
    lab.change_rules(&agent, &action("Allow"))?;
    ensure!(
        client.value("select 'again'")? == "again",
        "the connection was never dropped"
    );
    let said = say(&mut client, &run)?;
    ensure!(
        said.iter()
            .any(|message| message.values() == [Some("prepared".to_owned())]),
        "{said:?}"
    );
    ensure!(agent.metric("bailiff_policy_reloads_total")? == 2);
    Ok(())
}

#[test]
fn a_session_that_the_pod_can_read_on_its_wire_ends_when_a_mask_comes_in_force() -> Result<()> {
    let Some((lab, agent)) = people_from("")? else {
        return Ok(());
    };
    let mut client = lab.session(&agent)?;
    ensure!(client.value("select ssn from people limit 1")? == SECRET);
    lab.change_rules(&agent, &masks())?;
    client.send(&say::query("select ssn from people"))?;
    let said = client.rest()?;
    ensure!(codes(&said) == ["57P01"] && !tells(&said), "{said:?}");
    // A new one is dialed from the node, and goes on.
    let mut client = lab.session(&agent)?;
    ensure!(client.value("select ssn from people limit 1")? == "[masked]");
    Ok(())
}

/// Statements prepared and portals bound before a mask came into force give masked rows from then on, in the middle of a result too.
#[test]
fn portals_and_statements_from_before_a_mask_are_masked() -> Result<()> {
    let Some((lab, agent)) = people()? else {
        return Ok(());
    };
    let mut client = lab.session(&agent)?;
    client.ask("begin")?;
    let before = say(
        &mut client,
        &[
            say::parse("s", "select ssn from people"),
            say::bind("p", "s"),
            say::describe('P', "p"),
            say::execute("p", 1),
            say::sync(),
        ],
    )?;
    ensure!(tells(&before), "{before:?}");
    lab.change_rules(&agent, &masks())?;
    for messages in [
        vec![say::execute("p", 1), say::sync()],
        vec![say::bind("", "s"), say::execute("", 0), say::sync()],
        vec![say::execute("p", 0), say::sync()],
    ] {
        let after = say(&mut client, &messages)?;
        ensure!(!tells(&after) && codes(&after).is_empty(), "{after:?}");
        ensure!(
            after
                .iter()
                .any(|message| message.values() == [Some("[masked]".to_owned())]),
            "{after:?}"
        );
    }
    Ok(())
}

/// What SQL declared or prepared before a mask came into force can't be fetched or executed any more, by any of the ways.
#[test]
fn cursors_of_sql_from_before_a_mask_are_refused() -> Result<()> {
    let declared = "declare c cursor for select ssn from people";
    let held = "declare c cursor with hold for select ssn from people";
    let prepared = "prepare q as select ssn from people";
    let fetch = [say::query("fetch 1 from c")];
    let by_protocol = [say::execute("c", 1), say::sync()];
    let fetched_before = [say::bind("", "fetching"), say::execute("", 0), say::sync()];
    let described = [say::describe('P', "c"), say::execute("c", 0), say::sync()];
    let execute = [say::query("execute q")];
    let bound = [say::bind("", "q"), say::execute("", 0), say::sync()];
    let kept = [say::query("create temp table copied as execute q")];
    let several = [say::query("select 1; fetch all from c")];
    // What opens it, whether in a transaction, and how it is drawn from.
    let ways: [(&str, bool, &[Vec<u8>]); 10] = [
        (declared, true, &fetch),
        (declared, true, &by_protocol),
        (declared, true, &fetched_before),
        (declared, true, &described),
        (declared, true, &several),
        (held, false, &fetch),
        ("select opened()", true, &fetch),
        (prepared, false, &execute),
        (prepared, false, &bound),
        (prepared, false, &kept),
    ];
    let Some((lab, agent)) = people()? else {
        return Ok(());
    };
    let mut clients = Vec::new();
    for (opens, in_transaction, _) in ways {
        let mut client = lab.session(&agent)?;
        if in_transaction {
            client.ask("begin")?;
        }
        let said = client.ask(opens)?;
        ensure!(codes(&said).is_empty(), "{opens}: {said:?}");
        say(
            &mut client,
            &[say::parse("fetching", "fetch 1 from c"), say::sync()],
        )?;
        clients.push(client);
    }
    // As long as nothing has changed, they give what they are asked for.
    for (place, expected) in [(0, true), (7, true)] {
        let client = clients.get_mut(place).context("no client")?;
        let (_, _, draws) = ways.get(place).context("no way")?;
        ensure!(tells(&say(client, draws)?) == expected);
    }
    lab.change_rules(&agent, &masks())?;
    for (client, (opens, _, draws)) in clients.iter_mut().zip(ways) {
        let said = say(client, draws)?;
        ensure!(
            !tells(&said) && codes(&said) == ["42501"],
            "{opens}, {draws:?}: {said:?}"
        );
    }
    // The record says which mask it was.
    agent.wait_for("the record of the refusals", || {
        let operations = lab.enforced.operations()?;
        let told = operations
            .iter()
            .filter(|operation| {
                operation
                    .to_string()
                    .contains("the statement may read a masked column")
            })
            .count();
        Ok(told == ways.len())
    })
}

/// What a change isn't about goes on, and so does a session that ended its transaction.
#[test]
fn cursors_that_are_still_allowed_go_on() -> Result<()> {
    let Some((lab, agent)) = people()? else {
        return Ok(());
    };
    let plain = |lab: &Lab| {
        bailiff_tests::target(
            lab.server.address(),
            "  sourceAddress: Node\n  plainRelations: [public.places]\n",
        )
    };
    lab.server.sql("create table places as select 'here' as it")?;
    lab.change(&agent, "target.yaml", &plain(&lab))?;
    let (mut reading, mut leaking) = (lab.session(&agent)?, lab.session(&agent)?);
    reading.ask("begin")?;
    reading.ask("declare c cursor for select it from places")?;
    leaking.ask("begin")?;
    leaking.ask("declare c cursor for select ssn from people")?;
    lab.change_rules(&agent, &masks())?;
    ensure!(reading.value("fetch c")? == "here");
    ensure!(codes(&leaking.ask("fetch c")?) == ["42501"]);
    ensure!(codes(&leaking.ask("fetch c")?) == ["25P02"]);
    leaking.ask("rollback")?;
    leaking.ask("begin")?;
    leaking.ask("declare c cursor for select it from places")?;
    ensure!(leaking.value("fetch c")? == "here");
    Ok(())
}

/// The same for a rule in place of a mask.
#[test]
fn cursors_of_what_is_denied_now_are_refused() -> Result<()> {
    let Some((lab, agent)) = people()? else {
        return Ok(());
    };
    let mut client = lab.session(&agent)?;
    client.ask("begin")?;
    client.ask("declare c cursor for select ssn from people")?;
    ensure!(client.value("fetch c")? == SECRET);
    let denied = format!(
        "{ALLOW_ALL}    - {{ name: nobody, effects: [read], relations: [public.people], action: Deny, message: closed }}\n"
    );
    lab.change_rules(&agent, &denied)?;
    let said = client.ask("fetch c")?;
    let error = said.first().context("no answer")?;
    ensure!(
        error.sqlstate().as_deref() == Some("42501") && error.field(b'M').as_deref() == Some("closed"),
        "{said:?}"
    );
    Ok(())
}

/// Past the number that a session keeps, uncertainty denies.
#[test]
fn more_cursors_than_are_told_apart() -> Result<()> {
    let Some((lab, agent)) = people()? else {
        return Ok(());
    };
    lab.server.sql("create table places as select 'here' as it")?;
    let plain = bailiff_tests::target(
        lab.server.address(),
        "  sourceAddress: Node\n  plainRelations: [public.places]\n",
    );
    lab.change(&agent, "target.yaml", &plain)?;
    let mut clients = Vec::new();
    for number in [256, 257] {
        let mut client = lab.session(&agent)?;
        client.ask("begin")?;
        for place in 0..number {
            client.ask(&format!("declare c{place} cursor for select it from places"))?;
        }
        clients.push(client);
    }
    lab.change_rules(&agent, &masks())?;
    let answers: Vec<_> = clients
        .iter_mut()
        .map(|client| client.ask("fetch c0"))
        .collect::<Result<_>>()?;
    let codes: Vec<_> = answers.iter().map(|answer| codes(answer)).collect();
    ensure!(codes == [vec![], vec!["42501".to_owned()]], "{answers:?}");
    Ok(())
}

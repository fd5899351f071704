//! PostgreSQL's own programs, with and without the agent.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Compared, Lab, Message, client_program, say};

/// Takes numbers out of what is printed: those of objects, which grow from run to run, and those of processes.
fn without_numbers(text: String) -> String {
    text.lines()
        .filter(|line| !line.contains("lo_import ") && !line.contains("lo_unlink "))
        .map(|line| match line.split_once(" with PID ") {
            Some((before, _)) => format!("{before}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn psql_with_all_that_a_person_types() -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let script = client_program("with_psql.sql").display().to_string();
    let same = compared.same_but(&["psql", "-X", "-f", &script], without_numbers)?;
    ensure!(same.said.contains("terminating connection"), "{}", same.said);
    ensure!(same.operations().len() > 100, "{}", same.operations().len());
    Ok(())
}

#[test]
fn large_objects_by_the_function_call_message() -> Result<()> {
    // Not with `unknown: Allow`: the numbers of these functions are known.
    let Some(compared) = Compared::with(ALLOW_ALL, "", "")? else {
        return Ok(());
    };
    let script = "\\lo_import /etc/services 'a comment'\n\\set id :LASTOID\n\\lo_export :id /tmp/bailiff-lo\n\
                  \\! cmp /etc/services /tmp/bailiff-lo && echo equal\nselect count(*) from pg_largeobject_metadata;\n\
                  \\lo_unlink :id\n\\lo_export :id /tmp/bailiff-lo\nselect 'usable';\n";
    let run = "printf '%s' \"$1\" | psql -X -At -f -; rm -f /tmp/bailiff-lo";
    let same = compared.same_but(&["sh", "-c", run, "sh", script], |said| {
        said.lines()
            .filter(|line| {
                !line.contains("lo_unlink ") && !line.contains("lo_import ") && !line.contains("large object")
            })
            .map(|line| format!("{line}\n"))
            .collect()
    })?;
    ensure!(
        same.said.contains("equal\n1\n") && same.said.contains("usable"),
        "{}",
        same.said
    );
    let texts = serde_json::to_string(&same.events)?;
    ensure!(texts.contains("pg_catalog.lowrite") && texts.contains("pg_catalog.loread"));
    ensure!(same.unknown().is_empty());
    Ok(())
}

#[test]
fn function_calls_are_decided_as_calls_of_that_function() -> Result<()> {
    let rules = "    - name: most\n      effects: [read, transaction, execute]\n      functions: [pg_catalog.lo_open, pg_catalog.lo_creat]\n      action: Allow\n";
    let Some(lab) = Lab::new(rules, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    let mut call = |function: u32, argument: i32| -> Result<Vec<Message>> {
        client.send(&say::function_call_with(function, &[&argument.to_be_bytes()]))?;
        client.until_ready()
    };
    let made = call(957, -1)?;
    ensure!(
        made.first().is_some_and(|message| message.tag == b'V'),
        "{made:?}"
    );
    let object = made
        .first()
        .and_then(|message| message.body.get(4..8)?.try_into().ok())
        .map(i32::from_be_bytes);
    // lo_unlink is no function that the rule names; pg_sleep's number isn't known, nor is that of a function that nobody has.
    for (function, argument) in [(964, object.unwrap_or_default()), (2626, 1), (4_000_000, 1)] {
        let answer = call(function, argument)?;
        ensure!(
            answer.iter().find_map(Message::sqlstate).as_deref() == Some("42501"),
            "{function}: {answer:?}"
        );
    }
    ensure!(lab.server.sql("select count(*) from pg_largeobject_metadata")? == "1");
    Ok(())
}

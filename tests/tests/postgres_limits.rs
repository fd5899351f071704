//! Each limit of the data path is reached over a real session, and what happens then is what ARCHITECTURE.md says, while a
//! session beside it goes on.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Postgres, Running, message, noise, say};

/// A session beside the one that reaches a limit.
struct Beside(Client);

impl Beside {
    fn new(lab: &Lab, agent: &Running) -> Result<Self> {
        lab.session(agent).map(Self)
    }

    fn goes_on(&mut self) -> Result<()> {
        ensure!(self.0.value("select 41 + 1")? == "42");
        Ok(())
    }
}

/// What a client reads last before its connection ends.
fn last_words(messages: &[Message]) -> Option<String> {
    messages
        .iter()
        .rev()
        .find(|message| message.tag == b'E')
        .and_then(Message::sqlstate)
}

fn counted_and_logged(agent: &Running, limit: &str, reason: &str) -> Result<()> {
    agent.wait_for(limit, || Ok(agent.reached(limit)? > 0))?;
    agent.wait_for("a line in the log", || Ok(agent.log().contains(reason)))
}

#[test]
fn connections_over_all_and_per_pod() -> Result<()> {
    for (setting, limit) in [
        ("connections=2", "connections"),
        ("connections-per-pod=2", "connections_per_pod"),
    ] {
        let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
            return Ok(());
        };
        let lab = lab.options(&["--limit", setting]);
        let agent = lab.start()?;
        let mut beside = Beside::new(&lab, &agent)?;
        let second = lab.session(&agent)?;
        let mut third = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
        ensure!(
            third.rest()?.is_empty(),
            "closed without a word, since nothing was asked"
        );
        beside.goes_on()?;
        counted_and_logged(&agent, limit, limit)?;
        ensure!(agent.metric("bailiff_connections_refused_total{reason=\"too_many_connections\"}")? == 1);
        // A place that was given back can be taken again.
        drop(second);
        agent.wait_for("a free place", || Ok(agent.metric("bailiff_sessions_open")? == 1))?;
        ensure!(lab.session(&agent)?.value("select 7")? == "7");
    }
    Ok(())
}

#[test]
fn startup_packets() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    // As long as PostgreSQL itself takes: it is passed on whole.
    let name = "x".repeat(9_900);
    let mut longest = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    longest.send(&say::startup(&[
        ("user", "postgres"),
        ("database", "postgres"),
        ("application_name", &name),
    ]))?;
    ensure!(longest.until_ready()?.iter().any(|message| message.tag == b'Z'));
    let mut longer = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    longer.send(&say::startup(&[
        ("user", "postgres"),
        ("application_name", &name),
        ("options", &name),
    ]))?;
    ensure!(last_words(&longer.rest()?).as_deref() == Some("08P01"));
    beside.goes_on()?;
    counted_and_logged(&agent, "startup_packet", "oversized")?;
    // Short enough, but of too many parameters.
    let names: Vec<String> = (0..512).map(|number| format!("x.p{number}")).collect();
    let mut parameters = vec![("user", "postgres")];
    parameters.extend(names.iter().map(|name| (name.as_str(), "")));
    for (most, let_in) in [(512, true), (513, false)] {
        let mut many = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
        many.send(&say::startup(parameters.get(..most).context("too few")?))?;
        let said = many.until_ready()?;
        ensure!(
            said.iter().any(|message| message.tag == b'Z') == let_in,
            "{most}: {said:?}"
        );
        ensure!(
            let_in || last_words(&said).as_deref() == Some("08P01"),
            "{said:?}"
        );
    }
    beside.goes_on()
}

#[test]
fn the_handshakes_time() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "handshake=300ms"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    // One that says nothing, and one that never answers the server's question.
    let mut silent = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    ensure!(last_words(&silent.rest()?).as_deref() == Some("08006"));
    lab.server.sql("create role asked login password 'x'")?;
    lab.server.ask_for_passwords("asked")?;
    let mut mute = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    mute.send(&say::startup(&[("user", "asked"), ("database", "postgres")]))?;
    let said = mute.rest()?;
    ensure!(
        said.first().is_some_and(|message| message.tag == b'R')
            && last_words(&said).as_deref() == Some("08006"),
        "{said:?}"
    );
    beside.goes_on()?;
    agent.wait_for("both counted", || Ok(agent.reached("handshake_time")? == 2))?;
    counted_and_logged(&agent, "handshake_time", "handshake_time")?;
    // The one that had told its name is in the record, with its end.
    drop((beside, silent, mute));
    agent.stop()?;
    let events = lab.enforced.events()?;
    let ends: Vec<_> = events
        .iter()
        .filter_map(|event| event.pointer("/unmapped/why")?.as_str())
        .collect();
    ensure!(ends.contains(&"handshake_time") && ends.len() == 2, "{events:#?}");
    Ok(())
}

#[test]
fn the_handshakes_bytes() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "handshake-bytes=32KiB"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    lab.server.sql("create role asked login password 'x'")?;
    lab.server.ask_for_passwords("asked")?;
    let mut client = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    client.send(&say::startup(&[("user", "asked"), ("database", "postgres")]))?;
    ensure!(client.message()?.is_some_and(|message| message.tag == b'R'));
    // Less than one message may have, and more than all of them may.
    client.send(message(b'p', &[b'x'; 40_000]).get(..36_000).context("short")?)?;
    ensure!(last_words(&client.rest()?).as_deref() == Some("53400"));
    beside.goes_on()?;
    counted_and_logged(&agent, "handshake_bytes", "handshake_bytes")
}

#[test]
fn dialing_the_target() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    // A listener whose queue is full answers no SYN any more.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    full.listen(0)?;
    let address = full.local_addr()?.as_socket().context("no address")?;
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    // From the node, so that the loopback address is the node's.
    let target = format!(
        "{}  sourceAddress: Node\n---\n{}  sourceAddress: Node\n",
        bailiff_tests::target(lab.server.address(), ""),
        bailiff_tests::target("127.0.0.1", "")
            .replace("name: db", "name: full")
            .replace(":5432", &format!(":{}", address.port()))
    );
    let policy = bailiff_tests::policy(ALLOW_ALL).replace("[db]", "[db, full]");
    let enforced = bailiff_tests::Enforced::with(&[("target.yaml", &target), ("policy.yaml", &policy)])?
        .options(&["--limit", "dial=300ms"]);
    let agent = enforced.start()?;
    let mut beside = Beside(Client::started(
        agent.dial(lab.server.address(), Postgres::PORT)?,
    )?);
    let mut client = Client::new(agent.dial("127.0.0.1", address.port())?)?;
    let began = Instant::now();
    client.send(&say::startup(&[("user", "postgres")]))?;
    ensure!(last_words(&client.rest()?).as_deref() == Some("08001"));
    ensure!(began.elapsed() >= Duration::from_millis(300));
    beside.goes_on()?;
    counted_and_logged(&agent, "dial_time", "unreachable")
}

#[test]
fn messages_that_are_decided() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "  unknown: Allow\n")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "statement=64KiB"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    // A Query may be just as long, and not a byte longer.
    let fitting = |extra: usize| format!("select '{}'", "x".repeat((64 << 10) - 4 - 1 - 9 + extra));
    let mut client = lab.session(&agent)?;
    ensure!(client.value(&fitting(0))?.len() == (64 << 10) - 14);
    for (place, long) in [
        say::query(&fitting(1)),
        say::parse("", &fitting(0)),
        message(b'F', &vec![0; 64 << 10]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = lab.session(&agent)?;
        // The length alone decides: the rest is never waited for.
        client.send(long.get(..5).context("short")?)?;
        ensure!(last_words(&client.rest()?).as_deref() == Some("08P01"), "{place}");
        agent.wait_for("counted", || Ok(agent.reached("message")? == place as u64 + 1))?;
        beside.goes_on()?;
    }
    counted_and_logged(&agent, "message", "oversized")
}

#[test]
fn messages_that_pass_in_pieces() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    lab.server.sql("create table taken(it text)")?;
    let before = agent.resident_kib()?;
    let big = vec![b'x'; 96 << 20];
    let mut client = lab.session(&agent)?;
    // A parameter, a line of COPY and a row of 96 MiB each: none of them is ever held as a whole.
    client.send(&say::parse(
        "",
        "insert into taken values ($1) returning length(it)",
    ))?;
    client.send(&say::bind_values("", "", &[&big]))?;
    client.send(&[say::execute("", 0), say::sync()].concat())?;
    let answer = client.until_ready()?;
    ensure!(
        answer
            .iter()
            .any(|message| message.values() == [Some(big.len().to_string())]),
        "{answer:?}"
    );
    client.send(&say::query("copy taken from stdin"))?;
    client.send(&say::copy_data(&[&big[..], b"\n"].concat()))?;
    client.send(&say::copy_done())?;
    let answer = client.until_ready()?;
    ensure!(
        answer.iter().any(|message| message.body == b"COPY 1\0"),
        "{answer:?}"
    );
    ensure!(client.value("select it from taken limit 1")?.len() == big.len());
    let grown = agent.resident_kib()?.saturating_sub(before);
    ensure!(grown < 32 << 10, "the agent grew by {grown} KiB");
    beside.goes_on()?;
    // One byte over PostgreSQL's own cap.
    for tag in *b"Bd" {
        let mut client = lab.session(&agent)?;
        client.send(&[&[tag][..], &0x4000_0000_u32.to_be_bytes()].concat())?;
        ensure!(last_words(&client.rest()?).as_deref() == Some("08P01"));
        beside.goes_on()?;
    }
    agent.wait_for("both counted", || Ok(agent.reached("message")? == 2))?;
    counted_and_logged(&agent, "message", "oversized")
}

#[test]
fn rows_that_are_masked() -> Result<()> {
    let masks = format!("{ALLOW_ALL}  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n");
    let Some(lab) = Lab::new(&masks, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "masked-row=256KiB"]);
    lab.server.sql(
        "create table people(length int, name text, ssn text);
         insert into people select n, repeat('n', n), 'secret' from unnest(array[1, 200000, 262144]) n",
    )?;
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut client = lab.session(&agent)?;
    let row = client.ask("select ssn, name from people where length = 200000")?;
    let values = row
        .iter()
        .find(|message| message.tag == b'D')
        .context("no row")?
        .values();
    ensure!(values.first() == Some(&Some("[masked]".to_owned())));
    let said = client.ask("select ssn, name from people where length = 262144")?;
    ensure!(
        last_words(&said).as_deref() == Some("53400") && said.iter().all(|message| message.tag != b'D'),
        "{said:?}"
    );
    ensure!(client.rest()?.is_empty());
    beside.goes_on()?;
    counted_and_logged(&agent, "masked_row", "masked_row")
}

#[test]
fn answers_outstanding() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "outstanding=8"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut client = lab.session(&agent)?;
    // All of it at once: what waits goes on when answers have come, without another byte of the client.
    let mut pipeline = Vec::new();
    for number in 0..200 {
        pipeline.extend(say::run(&format!("select {number}")));
        pipeline.extend(say::sync());
    }
    client.send(&pipeline)?;
    for number in 0..200 {
        let answer = client.until_ready()?;
        ensure!(
            answer
                .iter()
                .any(|message| message.values() == [Some(number.to_string())]),
            "{answer:?}"
        );
    }
    beside.goes_on()?;
    ensure!(agent.reached("outstanding")? > 0);
    Ok(())
}

#[test]
fn unwritten_bytes_of_a_client_that_does_not_read() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut client = lab.session(&agent)?;
    let before = agent.resident_kib()?;
    client.send(&say::query(
        "select repeat('x', 10000) from generate_series(1, 50000) n",
    ))?;
    // The server is held back instead.
    agent.wait_for("the server waits for its client", || {
        Ok(lab
            .server
            .sql("select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query like '%repeat%' and pid <> pg_backend_pid()")?
            == "1")
    })?;
    let grown = agent.resident_kib()?.saturating_sub(before);
    ensure!(grown < 8 << 10, "the agent grew by {grown} KiB");
    ensure!(agent.reached("unwritten")? > 0);
    beside.goes_on()?;
    // And once it reads, it gets all of it.
    let answer = client.until_ready()?;
    ensure!(answer.iter().filter(|message| message.tag == b'D').count() == 50_000);
    Ok(())
}

#[test]
fn unwritten_bytes_of_a_server_that_does_not_read() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    lab.server.sql(
        "create table slow(it text);
         create function hold() returns trigger language plpgsql as
           $$ begin perform pg_advisory_xact_lock(7); return new; end $$;
         create trigger hold before insert on slow for each row execute function hold()",
    )?;
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut holder = lab.direct()?;
    holder.ask("select pg_advisory_lock(7)")?;
    let mut client = lab.session(&agent)?;
    client.send(&say::query("copy slow from stdin"))?;
    client.until(b'G')?;
    let before = agent.resident_kib()?;
    // The client is held back: far less than this fits into the sockets on the way.
    let data = say::copy_data(&[&[b'x'; 9_999][..], b"\n"].concat()).repeat(6_000);
    let mut stream = client.stream().try_clone()?;
    stream.set_nonblocking(true)?;
    let (mut sent, mut still) = (0, 0);
    while still < 50 {
        match stream.write(data.get(sent..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(written) => (sent, still) = (sent + written, 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                still += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(sent < data.len(), "all {sent} bytes were taken");
    let grown = agent.resident_kib()?.saturating_sub(before);
    ensure!(grown < 8 << 10, "the agent grew by {grown} KiB");
    ensure!(agent.reached("unwritten")? > 0);
    beside.goes_on()?;
    holder.ask("select pg_advisory_unlock(7)")?;
    stream.set_nonblocking(false)?;
    stream.write_all(data.get(sent..).unwrap_or_default())?;
    client.send(&say::copy_done())?;
    let answer = client.until_ready()?;
    ensure!(
        answer.iter().any(|message| message.body == b"COPY 6000\0"),
        "{answer:?}"
    );
    Ok(())
}

#[test]
fn prepared_statements_and_portals() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "prepared=3"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut client = lab.session(&agent)?;
    // Closing one makes room, and using a name again takes none.
    for name in ["a", "b", "c", "", "a", "b"] {
        client.send(&say::close('S', "a"))?;
        client.send(&say::close('S', ""))?;
        client.send(&say::parse(if name == "b" { "" } else { name }, "select 1"))?;
        client.send(&say::sync())?;
        let answer = client.until_ready()?;
        ensure!(
            answer.iter().all(|message| message.tag != b'E'),
            "{name}: {answer:?}"
        );
    }
    let mut client = lab.session(&agent)?;
    for name in ["a", "b", "c"] {
        client.send(&say::parse(name, "select 1"))?;
    }
    client.send(&[say::parse("d", "select 1"), say::sync()].concat())?;
    ensure!(last_words(&client.rest()?).as_deref() == Some("53400"));
    beside.goes_on()?;
    counted_and_logged(&agent, "prepared_statements", "prepared_statements")?;

    // Portals end with their transaction: many names one after another are none too many.
    let mut client = lab.session(&agent)?;
    client.send(&[say::parse("a", "select 1"), say::sync()].concat())?;
    client.until_ready()?;
    for number in 0..10 {
        let portal = format!("p{number}");
        client.send(&[say::bind(&portal, "a"), say::execute(&portal, 0), say::sync()].concat())?;
        let answer = client.until_ready()?;
        ensure!(
            answer.iter().any(|message| message.tag == b'D'),
            "{number}: {answer:?}"
        );
    }
    for portal in ["p", "q", "r", "s"] {
        client.send(&say::bind(portal, "a"))?;
    }
    client.send(&say::sync())?;
    ensure!(last_words(&client.rest()?).as_deref() == Some("53400"));
    beside.goes_on()?;
    counted_and_logged(&agent, "portals", "portals")
}

#[test]
fn words_and_operators_of_a_text() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut client = lab.session(&agent)?;
    let said = client.ask(&format!("select 1{}", "+1".repeat(33_000)))?;
    ensure!(last_words(&said).as_deref() == Some("42501"), "{said:?}");
    ensure!(client.value("select 1 + 1")? == "2", "the session stays usable");
    beside.goes_on()?;
    counted_and_logged(&agent, "nesting", "nesting")
}

#[test]
fn decisions_of_one_session() -> Result<()> {
    // What is decided stays right when more kinds of statements are used than are kept, also the first again.
    let rules = format!(
        "{ALLOW_ALL}    - {{ name: closed, effects: [read], relations: [public.closed], action: Deny }}\n"
    );
    let Some(lab) = Lab::new(&rules, "")? else {
        return Ok(());
    };
    lab.server.sql("create table public.closed(it int)")?;
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    for round in 0..2 {
        for kind in 0..600 {
            ensure!(client.value(&format!("select 'c' as c{kind}"))? == "c");
            if kind % 100 == 0 {
                let said = client.ask(&format!("select it as c{kind} from public.closed"))?;
                ensure!(last_words(&said).as_deref() == Some("42501"), "{round} {said:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn memory_of_all_sessions_together() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "memory=16MiB", "--workers", "1"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let before = agent.resident_kib()?;
    let long = format!("select '{}'", "x".repeat(1_000_000));
    // Sessions that prepare three long statements each and keep them, until it is too much.
    let mut prepared = 0;
    let mut holding: Vec<Client> = Vec::new();
    let ended = loop {
        let mut client = match holding.pop() {
            Some(client) if prepared % 3 != 0 => client,
            full => {
                holding.extend(full);
                lab.session(&agent)?
            }
        };
        client.send(&[say::parse(&prepared.to_string(), &long), say::sync()].concat())?;
        let answer = client.until_ready()?;
        if let Some(code) = last_words(&answer) {
            break code;
        }
        prepared += 1;
        holding.push(client);
    };
    // Sixteen texts would be just below it, but a message that isn't whole yet counts, too, with the room that its buffer has.
    ensure!(
        ended == "53400" && (13..=15).contains(&prepared),
        "{ended} after {prepared}"
    );
    // One that holds little isn't touched, old or new, and what was held is given back.
    beside.goes_on()?;
    ensure!(lab.session(&agent)?.value("select 7")? == "7");
    counted_and_logged(&agent, "memory", "memory")?;
    let grown = agent.resident_kib()?.saturating_sub(before);
    ensure!(grown < 64 << 10, "the agent grew by {grown} KiB");
    drop(holding);
    agent.wait_for("their ends", || Ok(agent.metric("bailiff_sessions_open")? == 1))?;
    let mut client = lab.session(&agent)?;
    for name in 0..12 {
        client.send(&[say::parse(&name.to_string(), &long), say::sync()].concat())?;
        ensure!(last_words(&client.until_ready()?).is_none());
    }
    ensure!(agent.reached("memory")? == 1);
    Ok(())
}

#[test]
fn texts_that_wait_for_the_grammar() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "grammar-queue=1"]);
    let agent = lab.start()?;
    let mut beside = Beside::new(&lab, &agent)?;
    let mut clients = (0..8).map(|_| lab.session(&agent)).collect::<Result<Vec<_>>>()?;
    let list = vec!["'a value'"; 60_000].join(",");
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&say::query(&format!("select 'x{number}' in ({list})")))?;
    }
    let mut refused = 0;
    for client in &mut clients {
        match last_words(&client.until_ready()?).as_deref() {
            None => {}
            Some("42501") => refused += 1,
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(client.value("select 41 + 1")? == "42", "the session stays usable");
    }
    ensure!(refused > 0 && agent.reached("grammar_queue")? == refused);
    beside.goes_on()?;
    counted_and_logged(&agent, "grammar_queue", "grammar_queue")
}

#[test]
fn the_record_on_disk() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--record-mib", "4"]);
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    for number in 0..100 {
        let comment = noise(number, 100_000);
        ensure!(client.value(&format!("select {number} /* {comment} */"))? == number.to_string());
        let taken: u64 = std::fs::read_dir(lab.enforced.record())?
            .flatten()
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum();
        ensure!(taken <= 4 << 20, "{taken} bytes");
    }
    drop(client);
    agent.stop()?;
    // 10 MB were written, of which compression leaves 7.5; the newest are there.
    let operations = lab.enforced.operations()?;
    ensure!((20..70).contains(&operations.len()), "{}", operations.len());
    let newest = operations
        .last()
        .and_then(|event| event.pointer("/unmapped/number")?.as_u64());
    ensure!(newest == Some(100), "{newest:?}");
    Ok(())
}

#[test]
fn limits_are_listed_and_a_wrong_one_is_told() -> Result<()> {
    let help = bailiff_tests::check(Command::new(bailiff_tests::bailiff()?).args(["run", "--help"]))?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    ensure!(
        help.contains("--limit <NAME=VALUE>")
            && help.contains("masked-row")
            && help.contains("[default: 16MiB]"),
        "{help}"
    );
    let wrong = Command::new(bailiff_tests::bailiff()?)
        .args(["run", "--config", "/", "--limit", "conections=3", "--", "true"])
        .output()?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(
        !wrong.status.success() && said.contains("there is no limit \"conections\"") && said.contains("dial"),
        "{said}"
    );
    Ok(())
}

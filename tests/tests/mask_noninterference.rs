//! What a client is told doesn't depend on what is masked.
//!
//! Two databases differ in masked values alone. Statements that are made up, in sessions of several, go to both through the
//! agent; every byte of the answers has to be the same, and a masked value in none of them. BAILIFF_SEED makes up others,
//! BAILIFF_SESSIONS more of them. What this can't see is time.

use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Client, Enforced, Message, Postgres, Statements, can_be_root, policy, say, target};

/// Everything but what runs code: what is refused should be so for the masks.
const RULES: &str = "    - name: use
      effects: [read, insert, update, delete, truncate, set, transaction, copy, create, drop]
      action: Allow
  masks:
    - columns: [public.people.ssn]
      with: Redact
    - columns: [public.people.salary]
      with: \"Null\"
";

const MORE: &str = "  plainRelations: [public.orders, public.notes, public.t1]\n";

/// Views, functions and constraints that pass values on, beside plain tables.
const SCHEMA: &str = "
    create table people(id int primary key, name text, ssn text, salary int, note text,
        check (salary < 100), check (ssn <> 'never'));
    create table orders(id int primary key, person int references people, amount int check (amount >= 0));
    create table notes(person int, body text, ssn text);
    insert into orders values (1, 1, 10), (2, 1, 5), (3, 2, 7);
    insert into notes values (1, 'n1', 'plain'), (3, 'n3', 'plain');
    create view v as select id, ssn as shown, salary + 1 as more from people;
    create view w as select row_to_json(people) as whole from people;
    create function told(int) returns text language sql stable as 'select ssn from people where id = $1';
";

/// As long, and as null, in both: which page a row lies on is no value. In order, in what they equal and in what they can be
/// cast to they differ.
const SECRETS: [&[(&str, i32)]; 2] = [
    &[
        ("111111111", 10),
        ("222222222", 20),
        ("111111111", 30),
        ("zzzzzzzzz", 40),
    ],
    &[
        ("qwertyuio", 77),
        ("(1,a,b)xx", 33),
        ("{1,2,3,4}", 33),
        ("000000000", 11),
    ],
];

fn fill(server: &Postgres) -> Result<()> {
    server.sql("alter system set autovacuum = off")?;
    server.sql("select pg_reload_conf()")?;
    server.sql(SCHEMA.replace("references people", "").as_str())?;
    // A copy has the same oids.
    server.sql("create database other template postgres")?;
    let [here, there] = SECRETS.map(|secrets| {
        let rows = secrets.iter().enumerate();
        let rows = rows.map(|(number, (ssn, salary))| {
            let id = number + 1;
            format!("({id}, 'name{}', '{ssn}', {salary}, null)", id % 3)
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        format!("insert into people values {rows}, (5, 'name1', null, null, 'x')")
    });
    server.sql(&here)?;
    let mut client = started(TcpStream::connect((server.address(), Postgres::PORT))?, "other")?;
    let answer = client.ask(&there)?;
    ensure!(!answer.iter().any(|message| message.tag == b'E'), "{answer:?}");
    Ok(())
}

fn started(stream: TcpStream, database: &str) -> Result<Client> {
    let mut client = Client::new(stream)?;
    client.send(&say::startup(&[("user", "postgres"), ("database", database)]))?;
    let answer = client.until_ready()?;
    ensure!(answer.iter().any(|message| message.tag == b'Z'), "{answer:?}");
    Ok(client)
}

/// An answer without the numbers of objects, which are another each time one is made.
fn told(answer: &[Message]) -> Vec<(char, Vec<u8>)> {
    let without_oids = |message: &Message| {
        let mut body = message.body.clone();
        if message.tag == b'T' {
            let mut place = 2;
            while let Some(end) = body
                .get(place..)
                .and_then(|rest| rest.iter().position(|byte| *byte == 0))
            {
                if let Some(field) = body.get_mut(place + end + 1..place + end + 5) {
                    field.fill(0);
                }
                place += end + 19;
            }
        }
        (char::from(message.tag), body)
    };
    answer.iter().map(without_oids).collect()
}

fn number_from(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().context(name.to_owned()))
}

#[test]
fn answers_do_not_depend_on_what_is_masked_by_names() -> Result<()> {
    answers_do_not_depend_on_what_is_masked("", RULES)
}

#[test]
fn answers_do_not_depend_on_what_is_masked_by_catalog() -> Result<()> {
    // With the catalog it is known what functions read.
    let rules = RULES.replace("effects: [read,", "effects: [execute, alter, read,");
    answers_do_not_depend_on_what_is_masked("  catalog: { user: postgres }\n", &rules)
}

fn answers_do_not_depend_on_what_is_masked(catalog: &str, rules: &str) -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    fill(&server)?;
    let enforced = Enforced::with(&[
        (
            "target.yaml",
            &target(server.address(), &format!("{MORE}{catalog}")),
        ),
        ("policy.yaml", &policy(rules)),
    ])?;
    let agent = enforced.start()?;
    let session = |database| started(agent.dial(server.address(), Postgres::PORT)?, database);
    let (mut here, mut there) = (session("postgres")?, session("other")?);
    let mut maker = Statements::new(number_from("BAILIFF_SEED", 1)?);
    let (mut answered, mut masked, mut refused, mut failed) = (0, 0, 0, 0);
    for number in 0..number_from("BAILIFF_SESSIONS", 1500)? {
        // What a session once made may be temporary, and hides what it is called like.
        if number % 10 == 0 {
            (here, there) = (session("postgres")?, session("other")?);
        }
        let mut said = vec!["begin".to_owned()];
        said.extend(maker.session());
        said.push("rollback".to_owned());
        for (place, sql) in said.iter().enumerate() {
            let bytes = match (maker.one_in(4), maker.one_in(2)) {
                (false, _) => say::query(sql),
                (true, false) => [say::run(sql), say::sync()].concat(),
                (true, true) => [
                    say::parse("", sql),
                    say::bind("", ""),
                    say::describe('P', ""),
                    say::execute("", 0),
                    say::sync(),
                ]
                .concat(),
            };
            here.send(&bytes)?;
            there.send(&bytes)?;
            let answers = (here.until_ready()?, there.until_ready()?);
            let shown = format!("{:?}\n{answers:#?}", said.get(..=place));
            ensure!(
                told(&answers.0) == told(&answers.1),
                "the answers differ: {shown}"
            );
            let text = format!("{answers:?}");
            for (secret, _) in SECRETS.iter().flat_map(|secrets| secrets.iter()) {
                ensure!(!text.contains(secret), "{secret} is told: {shown}");
            }
            ensure!(text.contains("Z "), "the session ended: {shown}");
            masked += usize::from(text.contains("[masked]"));
            let state = answers.0.iter().find_map(Message::sqlstate);
            match state.as_deref() {
                None => answered += 1,
                Some("42501") => refused += 1,
                Some(_) => failed += 1,
            }
            if state.is_some() && sql != "rollback" {
                here.ask("rollback")?;
                there.ask("rollback")?;
                break;
            }
        }
    }
    println!("{answered} answered, {masked} of them with masks; {refused} refused, {failed} failed");
    // Otherwise too little of what is made up is about masks.
    ensure!(
        answered > 1000 && masked > 25 && refused > 500,
        "{answered} {masked} {refused} {failed}"
    );
    Ok(())
}

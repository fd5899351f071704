//! API servers that fail or mean harm: what can't be masked is withheld, what breaks off is told, and memory stays bounded.
//!
//! One stands in that answers each connection's request by given bytes.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Asked, StandIn, until_closed};
use flate2::Compression;
use flate2::write::GzEncoder;

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [secrets, configmaps]}]
      action: Allow
    - name: run
      requests: [{verbs: [create], groups: [""], resources: [pods]}]
      action: Allow
    - name: no-secrets
      requests: [{verbs: [create], mountsSecrets: true}]
      action: Deny
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

/// What comes back until the other side closes.
fn said(mut stream: Asked) -> Result<String> {
    until_closed(&mut stream)
}

fn answer(code: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {code}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const JSON: &str = "Content-Type: application/json\r\n";
const OBJECT: &[u8] =
    br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","namespace":"n"},"data":{"k":"Y2FuYXJ5"}}"#;

#[test]
fn what_cannot_be_masked_is_withheld() -> Result<()> {
    let Some(faulty) = StandIn::new("withheld", RULES, &[])? else {
        return Ok(());
    };
    let one = format!("/api/v1/namespaces/{}/secrets/a", faulty.lab.namespace);
    let good = faulty.ask(&one, &answer("200 OK", JSON, OBJECT))?;
    ensure!(
        good.starts_with("HTTP/1.1 200 ") && good.contains("W21hc2tlZF0="),
        "{good}"
    );
    let half = OBJECT.get(..80).context("short")?;
    let mut cut = answer("200 OK", JSON, OBJECT);
    cut.truncate(cut.len() - 20);
    let deep = [
        b"{\"kind\":\"Secret\",\"x\":".as_slice(),
        &b"[".repeat(5000),
        &b"]".repeat(5000),
        b"}",
    ]
    .concat();
    for (what, said, code) in [
        ("nothing", Vec::new(), "502"),
        ("half a head", b"HTTP/1.1 200 O".to_vec(), "502"),
        ("no HTTP", b"SSH-2.0-server\r\n\r\n".to_vec(), "502"),
        ("less than announced", cut, "502"),
        ("half an object", answer("200 OK", JSON, half), "502"),
        (
            "more than an object",
            answer("200 OK", JSON, &[OBJECT, b"{}"].concat()),
            "502",
        ),
        ("no JSON", answer("200 OK", JSON, b"canary Y2FuYXJ5"), "502"),
        ("an object too deep", answer("200 OK", JSON, &deep), "502"),
        (
            "protobuf that is none",
            answer(
                "200 OK",
                "Content-Type: application/vnd.kubernetes.protobuf\r\n",
                OBJECT,
            ),
            "502",
        ),
        (
            "gzip that is none",
            answer("200 OK", &format!("{JSON}Content-Encoding: gzip\r\n"), OBJECT),
            "502",
        ),
        (
            "another compression",
            answer("200 OK", &format!("{JSON}Content-Encoding: br\r\n"), OBJECT),
            "406",
        ),
        (
            "a page",
            answer("200 OK", "Content-Type: text/html\r\n", OBJECT),
            "406",
        ),
        ("no type", answer("200 OK", "", OBJECT), "406"),
        (
            "an error's page",
            answer("500 Oops", "Content-Type: text/plain\r\n", OBJECT),
            "500",
        ),
    ] {
        let came = faulty.ask(&one, &said)?;
        ensure!(came.starts_with(&format!("HTTP/1.1 {code} ")), "{what}: {came}");
        ensure!(!came.contains("Y2FuYXJ5"), "{what}: {came}");
        ensure!(came.contains("\"kind\":\"Status\""), "{what}: {came}");
    }
    ensure!(!faulty.agent.log().contains("Y2FuYXJ5"), "{}", faulty.agent.log());
    let good = faulty.ask(&one, &answer("200 OK", JSON, OBJECT))?;
    ensure!(good.starts_with("HTTP/1.1 200 "), "{good}");
    Ok(())
}

#[test]
fn a_list_that_breaks_off_ends_where_it_broke() -> Result<()> {
    let Some(faulty) = StandIn::new("broken-lists", RULES, &[])? else {
        return Ok(());
    };
    let all = format!("/api/v1/namespaces/{}/secrets", faulty.lab.namespace);
    let item = String::from_utf8_lossy(OBJECT).into_owned();
    let begin =
        format!("{{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"items\":[{item},{item}");
    let broken = answer("200 OK", JSON, format!("{begin}],,]}}").as_bytes());
    for said in [broken, answer("200 OK", JSON, begin.as_bytes())] {
        let came = faulty.ask(&all, &said)?;
        ensure!(!came.contains("Y2FuYXJ5"), "{came}");
        // Neither its last chunk nor a length says that it were whole.
        ensure!(
            !came.starts_with("HTTP/1.1 200 ") || !came.ends_with("0\r\n\r\n"),
            "{came}"
        );
    }
    Ok(())
}

#[test]
fn a_decompression_bomb_takes_no_memory() -> Result<()> {
    let Some(faulty) = StandIn::new("bombs", RULES, &[])? else {
        return Ok(());
    };
    let headers = format!("{JSON}Content-Encoding: gzip\r\n");
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":""#)?;
    let zeros = vec![b'A'; 1 << 20];
    for _ in 0..512 {
        packed.write_all(&zeros)?;
    }
    let bomb = answer("200 OK", &headers, &packed.finish()?);
    ensure!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let one = format!("/api/v1/namespaces/{}/secrets/a", faulty.lab.namespace);
    let before = faulty.agent.resident_kib()?;
    let came = faulty.ask(&one, &bomb)?;
    ensure!(came.starts_with("HTTP/1.1 502 "), "{came}");
    let took = faulty.agent.resident_kib()?.saturating_sub(before);
    // One object may be held: 16 MiB, and what it grew by on the way.
    ensure!(took < 96 << 10, "{took} KiB");
    Ok(())
}

#[test]
fn answers_that_are_held_count_as_memory_of_all() -> Result<()> {
    let limit = ["--workers", "1", "--limit", "memory=32MiB"];
    let Some(faulty) = StandIn::new("answers-held", RULES, &limit)? else {
        return Ok(());
    };
    let one = format!("/api/v1/namespaces/{}/secrets/a", faulty.lab.namespace);
    let end = b"\"}}";
    let object = [
        br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":""#.as_slice(),
        &vec![b'A'; 8 << 20],
        end,
    ]
    .concat();
    let whole = answer("200 OK", JSON, &object);
    let (most, rest) = whole
        .split_at_checked(whole.len() - end.len())
        .context("it is short")?;
    let before = faulty.agent.resident_kib()?;
    // Each is held, since it isn't whole. A server whose answer is refused may be left before it has said it.
    let mut asked = Vec::new();
    for _ in 0..12 {
        let client = faulty.client_asks(&one)?;
        let mut server = faulty.accept()?;
        let _ = server.write_all(most).and_then(|()| server.flush());
        asked.push((client, server));
    }
    let took = faulty.agent.resident_kib()?.saturating_sub(before);
    // 96 MiB were said. Beside what may be held there is what was being moved, and what the allocator keeps.
    ensure!(took < 72 << 10, "{took} KiB");
    let (mut good, mut refused) = (0_u64, 0_u64);
    for (client, mut server) in asked {
        let _ = server.write_all(rest).and_then(|()| server.flush());
        let came = said(client)?;
        if came.starts_with("HTTP/1.1 200 ") {
            ensure!(
                came.contains("W21hc2tlZF0=") && !came.contains("AAAA"),
                "{} bytes",
                came.len()
            );
            good += 1;
        } else {
            ensure!(
                came.starts_with("HTTP/1.1 503 ")
                    && came.contains("\"kind\":\"Status\"")
                    && came.contains("no memory left"),
                "{came}"
            );
            refused += 1;
        }
    }
    ensure!(good >= 1 && refused >= 6, "{good} passed, {refused} were refused");
    ensure!(faulty.agent.reached("memory")? == refused);
    // All of it was given back.
    let again = faulty.ask(&one, &whole)?;
    ensure!(again.starts_with("HTTP/1.1 200 "), "{again}");
    Ok(())
}

#[test]
fn bodies_that_rules_look_at_count_as_memory_of_all() -> Result<()> {
    let limit = ["--workers", "1", "--limit", "memory=32MiB"];
    let Some(faulty) = StandIn::new("bodies-held", RULES, &limit)? else {
        return Ok(());
    };
    let pods = format!("/api/v1/namespaces/{}/pods", faulty.lab.namespace);
    let post = |length: usize, body: &str| {
        let headers = "Host: x\r\nContent-Type: application/json\r\nConnection: close\r\n";
        format!("POST {pods} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    };
    let before = faulty.agent.resident_kib()?;
    // Each is held, since it isn't whole.
    let most = post(3 << 20, &" ".repeat(5 << 19));
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(faulty.client_sends(most.as_bytes())?);
    }
    let mut tries = 0..600;
    while faulty.agent.reached("memory")? < 24 {
        ensure!(tries.next().is_some(), "bodies are held without an end");
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = faulty.agent.resident_kib()?.saturating_sub(before);
    // 100 MiB were sent. Beside what may be held there is what was being moved, and what the allocator keeps.
    ensure!(took < 72 << 10, "{took} KiB");
    let refused = faulty.agent.reached("memory")?;
    drop(open);
    // All of it is given back.
    let body = r#"{"kind":"Pod","apiVersion":"v1","spec":{"containers":[]}}"#;
    let made = answer("201 Created", JSON, body.as_bytes());
    let small = post(body.len(), body);
    let mut tries = 0..200;
    while !said(faulty.client_sends(post(1, "{").as_bytes())?)?.contains("more than one way") {
        ensure!(tries.next().is_some(), "it isn't given back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = std::thread::scope(|scope| {
        let served = scope.spawn(|| faulty.serve(&made));
        let said = said(faulty.client_sends(small.as_bytes())?);
        let _ = served.join();
        said
    })?;
    ensure!(said.starts_with("HTTP/1.1 201 "), "{said}");
    ensure!(refused <= 40, "{refused}");
    Ok(())
}

#[test]
fn a_client_that_does_not_read_takes_no_memory_and_no_one_elses_turn() -> Result<()> {
    let Some(faulty) = StandIn::new("slow-readers", RULES, &["--workers", "1"])? else {
        return Ok(());
    };
    let items = 60_000_usize;
    for (resource, kind) in [("secrets", "Secret"), ("configmaps", "ConfigMap")] {
        let path = format!("/api/v1/namespaces/{}/{resource}", faulty.lab.namespace);
        let item = format!(
            r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{"name":"a","namespace":"n"}},"data":{{"k":"{}"}}}}"#,
            "QUFB".repeat(400)
        );
        let begin = format!(r#"{{"kind":"{kind}List","apiVersion":"v1","metadata":{{}},"items":["#);
        let length = begin.len() + items * (item.len() + 1) - 1 + 2;
        let before = faulty.agent.resident_kib()?;
        let client = faulty.client_asks(&path)?;
        let mut server = faulty.accept()?;
        server.sock.set_write_timeout(Some(Duration::from_secs(120)))?;
        std::thread::scope(|scope| -> Result<()> {
            let served = scope.spawn(move || -> Result<()> {
                write!(
                    server,
                    "HTTP/1.1 200 OK\r\n{JSON}Content-Length: {length}\r\n\r\n{begin}"
                )?;
                for number in 0..items {
                    let comma = if number == 0 { "" } else { "," };
                    server.write_all(format!("{comma}{item}").as_bytes())?;
                }
                server.write_all(b"]}")?;
                server.flush()?;
                Ok(())
            });
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(200));
                let one = format!("/api/v1/namespaces/{}/secrets/a", faulty.lab.namespace);
                let other = faulty.ask(&one, &answer("200 OK", JSON, OBJECT))?;
                ensure!(other.starts_with("HTTP/1.1 200 "), "{other}");
            }
            ensure!(!served.is_finished(), "{length} bytes were taken in");
            let took = faulty.agent.resident_kib()?.saturating_sub(before);
            ensure!(took < 32 << 10, "{took} KiB");
            // It reads after all, and has missed nothing.
            let came = said(client)?;
            served
                .join()
                .map_err(|_| anyhow::anyhow!("the server panicked"))??;
            ensure!(
                came.matches(r#""name":"a""#).count() == items && came.contains("]}"),
                "{} bytes",
                came.len()
            );
            ensure!(came.contains("QUFB") == (resource == "configmaps"), "{resource}");
            Ok(())
        })?;
    }
    Ok(())
}

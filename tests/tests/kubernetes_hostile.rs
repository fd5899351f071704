//! Clients that mean harm, and servers that aren't there: nothing reaches the API server that wasn't decided.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ApiLab, Running, Said, until_closed};
use rustls::pki_types::ServerName;
use serde_json::Value;

/// Config maps may be read, and nothing else.
const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list], groups: [""], resources: [configmaps]}]
      action: Allow
"#;

/// A pod out of which requests are said byte by byte.
struct Pod {
    lab: ApiLab,
    agent: Running,
    config: Arc<rustls::ClientConfig>,
    token: String,
}

type Stream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

impl Pod {
    fn new(namespace: &str) -> Result<Option<Self>> {
        let Some(lab) = ApiLab::new(namespace, "admin", RULES)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            agent: lab.enforced.start_with(&["--pod", "agent"])?,
            config: Said::config(&lab, None)?,
            token: lab.token("agent")?,
            lab,
        }))
    }

    fn connect(&self) -> Result<Stream> {
        let service = self.lab.cluster.service()?;
        let socket = self.agent.dial(&service.ip().to_string(), service.port())?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let name = ServerName::try_from(service.ip().to_string())?;
        let session = rustls::ClientConnection::new(Arc::clone(&self.config), name)?;
        Ok(rustls::StreamOwned::new(session, socket))
    }

    /// Says something on a connection of its own, and returns what comes back until the other side closes or has nothing more.
    fn say(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = self.connect()?;
        // It may have had enough before all was said.
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
        stream.sock.set_read_timeout(Some(Duration::from_millis(700)))?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock
                        | ErrorKind::TimedOut
                        | ErrorKind::UnexpectedEof
                        | ErrorKind::ConnectionReset
                        | ErrorKind::BrokenPipe
                ) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// One answer to one request, the connection left open.
    fn ask(&self, stream: &mut Stream, path: &str) -> Result<String> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            self.token
        );
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            answer.extend_from_slice(&byte);
        }
        let head = String::from_utf8(answer)?;
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, length)| length.trim().parse().ok())
            .with_context(|| format!("an answer without a length: {head}"))?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok(head + &String::from_utf8(body)?)
    }
}

#[test]
fn no_request_gets_past_by_hiding_in_another() -> Result<()> {
    let Some(pod) = Pod::new("smuggling")? else {
        return Ok(());
    };
    let auth = format!("Authorization: Bearer {}\r\n", pod.token);
    let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
    let hidden = format!(
        "GET /api/v1/namespaces/{}/secrets/hidden HTTP/1.1\r\nHost: x\r\n{auth}\r\n",
        pod.lab.namespace
    );
    let length = hidden.len();
    let get =
        |headers: &str, body: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{auth}{headers}\r\n{body}");
    let last_chunk = format!("0\r\n\r\n{hidden}");
    let one_chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let attempts = [
        get(
            &format!(
                "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
                last_chunk.len()
            ),
            &last_chunk,
        ),
        get("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &one_chunk),
        get("Content-Length: 0\r\nContent-Length: 44\r\n", &hidden),
        get(
            &format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
            &hidden,
        ),
        get("Content-Length: 0, 44\r\n", &hidden),
        get("Content-Length: +0\r\n", &hidden),
        get("Content-Length: -1\r\n", &hidden),
        get("Content-Length: 0x10\r\n", &hidden),
        get("Transfer-Encoding: xchunked\r\n", &last_chunk),
        get("Transfer-Encoding: chunked, identity\r\n", &last_chunk),
        get(
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            &last_chunk,
        ),
        get("Transfer-Encoding : chunked\r\n", &last_chunk),
        get("Transfer-Encoding\u{b}: chunked\r\n", &last_chunk),
        get(" Transfer-Encoding: chunked\r\n", &last_chunk),
        get("X: a\r\n Transfer-Encoding: chunked\r\n", &last_chunk),
        get("X: a\r\n\tContent-Length: 400\r\n", &last_chunk),
        get("X: a\rContent-Length: 400\r\n", &hidden),
        get("X: a\nContent-Length: 400\n", &hidden),
        get("X: a\0b\r\n", &hidden),
        get("Host: y\r\n", &hidden),
        get(&auth, &hidden),
        get(
            "Transfer-Encoding: chunked\r\n",
            &format!("FFFFFFFFFFFFFFFF0\r\n{hidden}"),
        ),
        get("Transfer-Encoding: chunked\r\n", &format!("0;\n\r\n\r\n{hidden}")),
        get(
            "Transfer-Encoding: chunked\r\n",
            &format!("0\r\nContent-Length: 400\r\n\r\n{hidden}"),
        ),
        get("Expect: 100-continue\r\nContent-Length: 400\r\n", &hidden),
        get(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
            &hidden,
        ),
        get("Connection: close, Authorization\r\n", &hidden),
        get("Connection: Upgrade\r\nUpgrade: websocket\r\n", &hidden),
        get("X-HTTP-Method-Override: DELETE\r\n", &hidden),
        format!("GET {path} HTTP/1.0\r\nHost: x\r\n{auth}Transfer-Encoding: chunked\r\n\r\n{last_chunk}"),
        format!("GET {path} HTTP/0.9\r\n\r\n{hidden}"),
        format!("GET  {path}  HTTP/1.1\r\nHost: x\r\n{auth}\r\n{hidden}"),
        format!("GET https://x{path} HTTP/1.1\r\nHost: x\r\n{auth}\r\n{hidden}"),
        format!("GET {path}\r\nX: HTTP/1.1\r\nHost: x\r\n{auth}\r\n{hidden}"),
        format!("CONNECT x:443 HTTP/1.1\r\nHost: x\r\n{auth}\r\n{hidden}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}"),
        format!("\r\n\r\n{hidden}"),
    ];
    for attempt in &attempts {
        let answer = pod.say(attempt.as_bytes())?;
        // Where the second request is seen, it is decided: no answer tells of the secret, not even that there is none.
        ensure!(
            !answer.contains("\\\"hidden\\\" not found"),
            "{attempt}\n--- answer\n{answer}"
        );
    }
    // The agent goes on, and so does the connection of somebody who behaves.
    let mut stream = pod.connect()?;
    let answer = pod.ask(&mut stream, &path)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    // What the server got is what was decided.
    let user = format!("system:serviceaccount:{}:agent", pod.lab.namespace);
    let at = |event: &Value, place: &str| event.pointer(place).and_then(Value::as_str).map(str::to_owned);
    let recorded = |id: &str| -> Result<bool> {
        Ok(pod.lab.audited()?.iter().any(|event| {
            at(event, "/auditID").as_deref() == Some(id)
                && at(event, "/annotations/bailiff.dev~1verdict").as_deref() == Some("allow")
        }))
    };
    let got: Vec<Value> = pod
        .lab
        .cluster
        .audit()?
        .into_iter()
        .filter(|event| at(event, "/user/username").as_deref() == Some(&user))
        .collect();
    ensure!(!got.is_empty(), "the server got nothing at all");
    for event in &got {
        ensure!(
            at(event, "/objectRef/resource").as_deref() == Some("configmaps"),
            "it got past: {event:#}"
        );
        let id = at(event, "/auditID").context("no id")?;
        pod.agent
            .wait_for("the request in the record", || recorded(&id))?;
    }
    Ok(())
}

#[test]
fn a_changed_policy_is_felt_by_the_next_request_of_a_connection() -> Result<()> {
    let Some(pod) = Pod::new("reloaded")? else {
        return Ok(());
    };
    let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
    let mut stream = pod.connect()?;
    ensure!(pod.ask(&mut stream, &path)?.starts_with("HTTP/1.1 200 "));
    let file = pod.lab.enforced.config().join("policy.yaml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("action: Allow", "action: Deny"))?;
    pod.agent.wait_for("the changed policy", || {
        Ok(pod.agent.metric("bailiff_policy_reloads_total")? > 0)
    })?;
    let answer = pod.ask(&mut stream, &path)?;
    ensure!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    ensure!(answer.contains("rule look"), "{answer}");
    Ok(())
}

#[test]
fn a_client_that_says_no_more_still_gets_its_answer() -> Result<()> {
    let Some(pod) = Pod::new("half-closed")? else {
        return Ok(());
    };
    let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
    let mut stream = pod.connect()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        pod.token
    )?;
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(std::net::Shutdown::Write)?;
    let answer = until_closed(&mut stream)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200 ")
            && answer.contains("ConfigMapList")
            && answer.trim_end().ends_with('}'),
        "{answer}"
    );
    Ok(())
}

#[test]
fn headers_without_end_are_refused() -> Result<()> {
    let Some(pod) = Pod::new("headers")? else {
        return Ok(());
    };
    let mut request = format!("GET /version HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(3 << 20));
    request.push_str("\r\n\r\n");
    let answer = pod.say(request.as_bytes())?;
    ensure!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let many: String = (0..10_000).map(|number| format!("X-{number}: a\r\n")).collect();
    let answer = pod.say(format!("GET /version HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes())?;
    ensure!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );
    let mut stream = pod.connect()?;
    let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
    ensure!(pod.ask(&mut stream, &path)?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[test]
fn a_server_that_isnt_there_is_a_status() -> Result<()> {
    let Some(lab) = ApiLab::new("unreachable", "view", RULES)? else {
        return Ok(());
    };
    // Nothing listens there.
    let address = format!("{}:6449", lab.cluster.api_server()?.ip());
    let file = lab.enforced.config().join("target.yaml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(
        &file,
        text.replace(&lab.cluster.api_server()?.to_string(), &address),
    )?;
    let url = format!("https://{address}/api/v1/namespaces/{}/configmaps", lab.namespace);
    let ca = lab.cluster.ca()?.display().to_string();
    for version in ["--http1.1", "--http2"] {
        let curl = ["curl", "-sS", "-i", version, "--cacert", &ca, &url];
        let output = lab.enforced.run_with(&["--pod", "agent"], &curl)?.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.contains(" 503") && said.contains("\"reason\":\"ServiceUnavailable\""),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(said.to_lowercase().contains("retry-after: 1"), "{said}");
    }
    Ok(())
}

/// A frame of HTTP/2. (RFC 9113, 4.1.)
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut all = length.get(1..).unwrap_or_default().to_vec();
    all.extend([kind, flags]);
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// A request for /version as HPACK writes it: three of the static table's entries, and the path. (RFC 7541.)
const VERSION: &[u8] = b"\x82\x87\x04\x08/version\x01\x01x";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM_AND_HEADERS: u8 = 5;

/// The type of the next frame that comes back; `None` where the other side closes or has nothing more.
fn next_frame(stream: &mut Stream) -> Option<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [a, b, c, kind, ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(kind)
}

/// The types of the frames that come back until the other side closes or has nothing more.
fn frames(stream: &mut Stream) -> Result<Vec<u8>> {
    stream.sock.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(std::iter::from_fn(|| next_frame(stream)).collect())
}

#[test]
fn ten_thousand_streams_take_neither_memory_nor_others_turn() -> Result<()> {
    let Some(mut pod) = Pod::new("streams")? else {
        return Ok(());
    };
    let plain = Arc::clone(&pod.config);
    let mut config = (*pod.config).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let before = pod.agent.resident_kib()?;
    let stream_of = |number: u32| number * 2 + 1;
    let all_at_once: Vec<u8> = (0..10_000)
        .flat_map(|number| frame(HEADERS, END_STREAM_AND_HEADERS, stream_of(number), VERSION))
        .collect();
    let begun_and_reset: Vec<u8> = (0..10_000)
        .flat_map(|number| {
            let mut both = frame(HEADERS, END_STREAM_AND_HEADERS, stream_of(number), VERSION);
            // CANCEL: what is called rapid reset.
            both.extend(frame(RESET, 0, stream_of(number), &[0, 0, 0, 8]));
            both
        })
        .collect();
    let mut endless = frame(HEADERS, 1, 1, VERSION);
    for _ in 0..10_000 {
        endless.extend(frame(
            CONTINUATION,
            0,
            1,
            &[b"\x00\x01a\x7f\x80\x01".as_slice(), &[b'b'; 255]].concat(),
        ));
    }
    for (what, flood) in [
        ("all at once", &all_at_once),
        ("begun and reset", &begun_and_reset),
        ("headers that go on", &endless),
    ] {
        pod.config = Arc::clone(&config);
        let mut stream = pod.connect()?;
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        begin.extend(frame(SETTINGS, 0, 0, &[]));
        stream.write_all(&begin)?;
        // It may have had enough before all was said.
        let _ = stream.write_all(flood).and_then(|()| stream.flush());
        let came = frames(&mut stream)?;
        ensure!(
            came.contains(&RESET)
                || came.contains(&GOAWAY)
                || came.is_empty()
                || what == "headers that go on",
            "{what}: nothing was refused: {came:?}"
        );
        // Another connection is served meanwhile.
        pod.config = Arc::clone(&plain);
        let mut other = pod.connect()?;
        let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
        ensure!(pod.ask(&mut other, &path)?.starts_with("HTTP/1.1 200 "), "{what}");
        let took = pod.agent.resident_kib()?.saturating_sub(before);
        ensure!(took < 64 << 10, "{what}: {took} KiB");
    }
    Ok(())
}

/// A header as HPACK writes one of neither table. (RFC 7541, 6.2.2.)
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| {
        let mut all = Vec::new();
        let mut rest = text.len();
        if rest < 127 {
            all.push(rest as u8);
        } else {
            all.push(127);
            rest -= 127;
            while rest > 127 {
                all.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            all.push(rest as u8);
        }
        all.extend(text);
        all
    };
    [vec![0], text(name), text(value)].concat()
}

#[test]
fn what_http1_would_read_otherwise_is_no_request_of_http2() -> Result<()> {
    let Some(mut pod) = Pod::new("other-version")? else {
        return Ok(());
    };
    let mut config = (*pod.config).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    pod.config = Arc::new(config);
    let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
    let auth = format!("Bearer {}", pod.token);
    // What would be a request of its own, were it written as it is.
    let hidden = format!(
        "a\r\nHost: x\r\nAuthorization: {auth}\r\n\r\nGET /api/v1/namespaces/{}/secrets/hidden HTTP/1.1\r\nX: a",
        pod.lab.namespace
    );
    let request = |path: &str, authority: &str, more: &[(&str, &str)]| {
        let mut all = b"\x82\x87".to_vec();
        all.extend(literal(b":path", path.as_bytes()));
        all.extend(literal(b":authority", authority.as_bytes()));
        all.extend(literal(b"authorization", auth.as_bytes()));
        for (name, value) in more {
            all.extend(literal(name.as_bytes(), value.as_bytes()));
        }
        frame(HEADERS, END_STREAM_AND_HEADERS, 1, &all)
    };
    // How it is answered.
    let say = |request: &[u8]| -> Result<Option<u8>> {
        let mut stream = pod.connect()?;
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        all.extend(frame(SETTINGS, 0, 0, &[]));
        all.extend(request);
        stream.write_all(&all)?;
        stream.flush()?;
        let mut come = std::iter::from_fn(|| next_frame(&mut stream));
        Ok(come.find(|kind| [HEADERS, RESET, GOAWAY].contains(kind)))
    };
    let with = |name: &str, value: &str| request(&path, "x", &[(name, value)]);
    let refused = [
        with("x", &hidden),
        with("x", "a\nb"),
        with("x", "a\0b"),
        with(&format!("x: {hidden}"), "a"),
        with("x: a", "b"),
        with("x y", "a"),
        with("X", "a"),
        with("", "a"),
        with("transfer-encoding", "chunked"),
        with("connection", "authorization"),
        with("upgrade", "websocket"),
        with("keep-alive", "timeout=5"),
        with("te", "gzip"),
        with("content-length", "44"),
        with("content-length", "0, 44"),
        with(":path", "/version"),
        request(&format!("{path} HTTP/1.1\r\nX: {hidden}"), "x", &[]),
        request(&format!("{path} "), "x", &[]),
        request(&format!("{path}\t"), "x", &[]),
        request("*", "x", &[]),
        request("version", "x", &[]),
        request(&path, &hidden, &[]),
        request(&path, "x y", &[]),
    ];
    for (number, attempt) in refused.iter().enumerate() {
        ensure!(
            say(attempt)?.is_some(),
            "attempt {number} is left without an answer"
        );
    }
    // Somebody who behaves, and another name beside the authority's, which counts for nothing.
    for fine in [
        request(&path, "x", &[]),
        with("host", "y"),
        request(&path, "a@x", &[]),
    ] {
        ensure!(say(&fine)? == Some(HEADERS), "it is refused");
    }
    let user = format!("system:serviceaccount:{}:agent", pod.lab.namespace);
    let got: Vec<Value> = (pod.lab.cluster.audit()?.into_iter())
        .filter(|event| event.pointer("/user/username").and_then(Value::as_str) == Some(&user))
        .collect();
    ensure!(
        got.len() >= 2 && got.len() <= 6,
        "the server got {}: {got:#?}",
        got.len()
    );
    for event in got {
        ensure!(
            event.pointer("/requestURI").and_then(Value::as_str) == Some(&path),
            "it got past: {event:#}"
        );
    }
    Ok(())
}

/// Writes a byte at a time, each in a TLS record of its own.
fn slowly(stream: &mut Stream, bytes: &[u8]) -> Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        stream.flush()?;
        std::thread::sleep(Duration::from_millis(4));
    }
    Ok(())
}

#[test]
fn slow_writers_are_served_or_left_and_keep_nobody_waiting() -> Result<()> {
    let Some(mut pod) = Pod::new("slow-writers")? else {
        return Ok(());
    };
    let path = format!("/api/v1/namespaces/{}/configmaps", pod.lab.namespace);
    // One that never ends its headers, from the beginning on.
    let mut endless = pod.connect()?;
    endless.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Slow: ").as_bytes())?;
    endless.flush()?;

    let mut slow = pod.connect()?;
    let mut other = pod.connect()?;
    slowly(
        &mut slow,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n").as_bytes(),
    )?;
    ensure!(pod.ask(&mut other, &path)?.starts_with("HTTP/1.1 200 "));
    let rest = format!("Authorization: Bearer {}\r\n\r\n", pod.token);
    let (most, last) = rest
        .as_bytes()
        .split_at_checked(rest.len().saturating_sub(100))
        .context("a short token")?;
    slow.write_all(most)?;
    slowly(&mut slow, last)?;
    let mut first = [0; 12];
    slow.read_exact(&mut first)?;
    ensure!(&first == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&first));

    // What a rule refuses is answered at its headers, however slow or large its body is, and the answer isn't lost.
    for (slow, length) in [(true, 50), (false, 2 << 20)] {
        let mut refused = pod.connect()?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            pod.token
        );
        refused.write_all(head.as_bytes())?;
        let body = vec![b' '; length];
        // It may have had enough before all was said.
        let _ = if slow {
            slowly(&mut refused, &body)
        } else {
            refused
                .write_all(&body)
                .and_then(|()| refused.flush())
                .map_err(Into::into)
        };
        let mut first = [0; 12];
        refused.read_exact(&mut first)?;
        ensure!(&first == b"HTTP/1.1 403", "{}", String::from_utf8_lossy(&first));
    }

    // The same in frames.
    let plain = Arc::clone(&pod.config);
    let mut config = (*pod.config).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    pod.config = Arc::new(config);
    let mut framed = pod.connect()?;
    slowly(&mut framed, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    slowly(&mut framed, &frame(SETTINGS, 0, 0, &[]))?;
    slowly(&mut framed, &frame(HEADERS, END_STREAM_AND_HEADERS, 1, VERSION))?;
    ensure!(frames(&mut framed)?.contains(&HEADERS));
    pod.config = plain;

    // The first one is left when its time is over: 32 s.
    endless.sock.set_read_timeout(Some(Duration::from_secs(60)))?;
    let said = until_closed(&mut endless).context("it is never left")?;
    ensure!(!said.contains(" 200 "), "{said}");
    pod.agent.wait_for("the limit is counted", || {
        Ok(pod.agent.reached("http_headers_time")? == 1)
    })?;
    ensure!(pod.ask(&mut other, &path)?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

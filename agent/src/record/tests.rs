use std::fs::File;
use std::io::{BufRead as _, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use bailiff_model::{Effect, EffectSet, Evidence, Hop, HopKind, Mode, PodInfo, PodUid, Reason, SqlEffect};
use serde_json::Value;

use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bailiff-record-{name}-{}", std::process::id()));
        Self(path)
    }

    fn options(&self) -> StoreOptions {
        StoreOptions {
            directory: self.0.clone(),
            file_bytes: 64 << 20,
            total_bytes: 1 << 30,
        }
    }

    fn lines(&self) -> Vec<Value> {
        files(&self.0)
            .unwrap()
            .iter()
            .flat_map(|path| {
                let mut text = Vec::new();
                frames(&mut File::open(path).unwrap(), 0, |more| {
                    text.extend_from_slice(more)
                })
                .unwrap();
                text.lines()
                    .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
                    .collect::<Vec<Value>>()
            })
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn session() -> SessionId {
    SessionId::new("0123456789abcdef")
}

pub(crate) fn start() -> Arc<SessionStart> {
    let pod = PodInfo {
        namespace: "ci".to_owned(),
        name: "runner".to_owned(),
        uid: PodUid::new("u-1"),
        service_account: "builder".to_owned(),
        labels: std::collections::BTreeMap::new(),
        mode: Mode::Enforce,
    };
    Arc::new(SessionStart {
        session: session(),
        at: SystemTime::now(),
        chain: Arc::new(Chain::of_caller(Hop {
            kind: HopKind::Pod {
                pod: Arc::new(pod),
                process: None,
            },
            evidence: Evidence::Observed,
        })),
        target: TargetName::new("orders"),
        destination: OriginalDst::new("10.0.0.1:5432".parse().unwrap()),
        user: "app".to_owned(),
        database: "shop".to_owned(),
        application: "psql".to_owned(),
        connected_as: None,
    })
}

fn operation(number: u64, verdict: Effect) -> Event {
    with_text(number, verdict, "SELECT id, name FROM customers WHERE id = 1")
}

fn with_text(number: u64, verdict: Effect, text: &str) -> Event {
    Event::Operation(OperationEnd {
        session: start(),
        number,
        at: SystemTime::now(),
        text: Some(Arc::from(text.as_bytes())),
        decision: Arc::new(Decision {
            verdict,
            reason: Reason {
                policy: Some("reads".into()),
                rule: Some("allow-reads".into()),
                hop: 0,
                message: "".into(),
            },
            observed: None,
            effects: EffectSet::EMPTY.with(SqlEffect::Read),
            verb: None,
            recording: bailiff_model::Recording::default(),
        }),
        rows: 1,
        masked: 1,
        bytes_in: 50,
        bytes_out: 120,
        decided: Duration::from_micros(7),
        took: Duration::from_micros(300),
        sqlstate: (verdict == Effect::Deny).then_some(*b"42501"),
        outcome: Outcome::Answered,
        content: None,
    })
}

fn end() -> Event {
    Event::End(SessionEnd {
        session: start(),
        at: SystemTime::now(),
        why: "client_left",
        operations: 2,
        denied: 1,
        unrecorded: 0,
        killed: None,
    })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn passwords_are_not_recorded() {
    let level = RecordingLevel::Statement;
    let text = recordable(b"ALTER ROLE a PASSWORD 'hunter2'", level).unwrap();
    assert_eq!(text, "ALTER ROLE a PASSWORD '[secret]'");
    for text in [
        "ALTER ROLE a PASSWORD $$hunter2$$",
        "ALTER ROLE a PASSWORD $x$hunter2$x$",
        "alter role a password 'x''hunter2'",
        r"ALTER ROLE a PASSWORD E'x\'hunter2'",
        "/* it's time */ ALTER ROLE a PASSWORD 'hunter2'",
        "-- it's time\nALTER ROLE a PASSWORD 'hunter2'",
        "ALTER ROLE \"o'hara\" PASSWORD 'hunter2'",
        "ALTER ROLE a PASSWORD U&'x\\0027hunter2'",
        "ALTER ROLE a PASSWORD 'hunter2",
        "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2' PUBLICATION p",
    ] {
        let recorded = recordable(text.as_bytes(), level).unwrap();
        assert!(!recorded.contains("hunter2"), "{recorded}");
    }
    assert_eq!(recordable(b"SELECT 'a'", level).unwrap(), "SELECT 'a'");
    assert_eq!(recordable(b"SELECT 'a'", RecordingLevel::Metadata), None);
}

#[test]
fn every_event_has_what_ocsf_requires() {
    let scratch = Scratch::new("shape");
    let metrics = Arc::new(Metrics::new().unwrap());
    let recorder = Recorder::start(Store::open(scratch.options()).unwrap(), 1 << 20, metrics).unwrap();
    let mut worker = recorder.worker();
    for event in [
        Event::Start(start()),
        operation(1, Effect::Allow),
        operation(2, Effect::Deny),
        end(),
    ] {
        worker.push(event);
    }
    worker.flush();
    recorder.stop();
    let lines = scratch.lines();
    assert_eq!(lines.len(), 4);
    let number = |event: &Value, place: &str| event.pointer(place).and_then(Value::as_u64);
    for event in &lines {
        let activity = number(event, "/activity_id").unwrap();
        assert_eq!(number(event, "/class_uid"), Some(6005));
        assert_eq!(number(event, "/category_uid"), Some(6));
        assert_eq!(number(event, "/type_uid"), Some(600_500 + activity));
        assert!(number(event, "/time").unwrap() > 1_700_000_000_000);
        assert!(number(event, "/severity_id").is_some());
        // Who and where from stand in every event, so that each can be read alone.
        assert_eq!(event.pointer("/actor/user/name").unwrap(), "app");
        assert_eq!(event.pointer("/src_endpoint/name").unwrap(), "ci/runner");
        assert_eq!(event.pointer("/database/name").unwrap(), "shop");
        assert!(number(event, "/status_id").is_some());
        for place in [
            "/metadata/version",
            "/metadata/product/name",
            "/metadata/product/vendor_name",
        ] {
            assert!(
                event.pointer(place).is_some_and(Value::is_string),
                "{place}: {event}"
            );
        }
        assert_eq!(
            event.pointer("/metadata/correlation_uid").unwrap(),
            "0123456789abcdef"
        );
    }
    let sequence: Vec<_> = lines
        .iter()
        .map(|event| number(event, "/metadata/sequence"))
        .collect();
    assert_eq!(sequence, [Some(0), Some(1), Some(2), Some(3)]);
    let [start, read, refused, end] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(start.pointer("/actor/user/name").unwrap(), "app");
    assert_eq!(start.pointer("/database/name").unwrap(), "shop");
    assert_eq!(start.pointer("/src_endpoint/name").unwrap(), "ci/runner");
    assert_eq!(start.pointer("/dst_endpoint/ip").unwrap(), "10.0.0.1");
    assert_eq!(start.pointer("/unmapped/chain/0/evidence").unwrap(), "observed");
    assert_eq!(number(read, "/activity_id"), Some(1));
    assert_eq!(number(read, "/status_id"), Some(1));
    assert_eq!(
        read.pointer("/query_info/query_string").unwrap(),
        "SELECT id, name FROM customers WHERE id = 1"
    );
    assert_eq!(number(refused, "/status_id"), Some(2));
    assert_eq!(refused.pointer("/status_code").unwrap(), "42501");
    assert_eq!(refused.pointer("/unmapped/policy").unwrap(), "reads");
    assert_eq!(number(end, "/unmapped/denied"), Some(1));
}

#[test]
fn a_slow_disk_fills_the_queue_and_nothing_is_lost() {
    let scratch = Scratch::new("slow");
    let metrics = Arc::new(Metrics::new().unwrap());
    let (mut disk, written) = std::io::pipe().unwrap();
    let store = Store::into_file(scratch.options(), File::from(OwnedFd::from(written)));
    let recorder = Recorder::start(store, 256 * 1024, Arc::clone(&metrics)).unwrap();
    let mut worker = recorder.worker();
    let mut pushed = 0;
    // Nobody reads the pipe yet: what Block does is to wait from here on.
    while worker.has_room() {
        pushed += 1;
        // What is written is compressed, and must fill the pipe nevertheless.
        let text: String = (0..64).map(|_| crate::random_hex()).collect();
        worker.push(with_text(pushed, Effect::Allow, &text));
    }
    worker.flush();
    wait_until("the gauge shows the queue", || {
        metrics.recorder_queue_bytes.get() > 0
    });
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let mut plain = zstd::Decoder::new(&mut disk).unwrap();
        plain.read_to_string(&mut text).unwrap();
        text
    });
    wait_until("there is room again", || worker.has_room());
    pushed += 1;
    worker.push(operation(pushed, Effect::Allow));
    worker.flush();
    recorder.stop();
    let text = reader.join().unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event.pointer("/unmapped/number").and_then(Value::as_u64).unwrap()
        })
        .collect();
    assert_eq!(numbers, (1..=pushed).collect::<Vec<_>>());
    assert_eq!(metrics.recorder_dropped.get(), 0);
    assert_eq!(metrics.recorder_queue_bytes.get(), 0);
}

#[test]
fn a_full_disk_is_told_keeps_the_queue_and_does_not_keep_the_agent_from_ending() {
    let scratch = Scratch::new("full");
    let metrics = Arc::new(Metrics::new().unwrap());
    let disk = File::options().append(true).open("/dev/full").unwrap();
    let store = Store::into_file(scratch.options(), disk);
    let recorder = Recorder::start(store, 16 * 1024, Arc::clone(&metrics)).unwrap();
    let mut worker = recorder.worker();
    let mut pushed = 0;
    while worker.has_room() {
        pushed += 1;
        worker.push(operation(pushed, Effect::Allow));
    }
    worker.flush();
    wait_until("the failure is counted", || metrics.recorder_errors.get() > 0);
    assert!(!worker.has_room());
    recorder.stop();
    assert_eq!(metrics.recorder_dropped.get(), pushed);
}

#[test]
fn a_hundred_thousand_operations_are_all_there() {
    const OPERATIONS: u64 = 100_000;
    let scratch = Scratch::new("many");
    let metrics = Arc::new(Metrics::new().unwrap());
    let recorder = Recorder::start(Store::open(scratch.options()).unwrap(), 1 << 30, metrics).unwrap();
    let mut worker = recorder.worker();
    let began = Instant::now();
    for number in 1..=OPERATIONS {
        worker.push(operation(number, Effect::Allow));
    }
    worker.flush();
    let pushed = began.elapsed();
    recorder.stop();
    println!("pushed in {pushed:?}, on disk after {:?}", began.elapsed());
    assert_eq!(scratch.lines().len() as u64, OPERATIONS);
}

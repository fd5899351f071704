//! How fast a list of 5,000 pods in JSON passes: with nothing that is looked at, and with the values of their environment masked.
//!
//! `cargo run --release -p bailiff-wire --example json_list`

use std::hint::black_box;
use std::time::{Duration, Instant};

use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Fields, Format, Malformed, Replacement, Shape, Stream, Value};
use bytes::Bytes;

/// So much the connection gives at a time.
const PIECE: usize = 64 * 1024;

const MASKED: &[&str] = &["spec", "containers", "", "env", "", "value"];

struct Environment {
    any: bool,
}

impl Environment {
    fn below(at: Option<usize>, key: &str) -> Option<usize> {
        at.filter(|depth| MASKED.get(*depth) == Some(&key))
            .map(|depth| depth + 1)
    }
}

impl Fields for Environment {
    type At = Option<usize>;

    fn object(&mut self, _: Option<&str>, _: Option<&str>) -> Self::At {
        self.any.then_some(0)
    }

    fn member(&mut self, at: Self::At, key: &str) -> Self::At {
        Self::below(at, key)
    }

    fn element(&mut self, at: Self::At, _: usize, _: Option<&str>) -> Self::At {
        Self::below(at, "")
    }

    fn passes(&self, at: Self::At) -> bool {
        at.is_none()
    }

    fn replace(&mut self, at: Self::At, _: Value<'_>) -> Option<Replacement> {
        (at == Some(MASKED.len())).then(|| Replacement::Value(b"[masked]".to_vec()))
    }

    fn hides_texts(&self) -> bool {
        self.any
    }

    fn hides_cells(&self) -> bool {
        self.any
    }
}

fn main() -> Result<(), Malformed> {
    let body = Bytes::from(list());
    for (what, any) in [("nothing is looked at", false), ("env is masked", true)] {
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let begun = Instant::now();
            pass(&body, any)?;
            best = best.min(begun.elapsed());
        }
        let rate = body.len() as f64 / best.as_secs_f64() / 1e6;
        println!("{} bytes, {what}: {best:?}, {rate:.0} MB/s", body.len());
    }
    Ok(())
}

fn pass(body: &Bytes, any: bool) -> Result<(), Malformed> {
    let mut stream = Stream::new(Format::Json, Shape::List, Type::UNKNOWN);
    let (mut fields, mut out) = (Environment { any }, Vec::new());
    let mut from = 0;
    while from < body.len() {
        let end = body.len().min(from + PIECE);
        stream.feed(&body.slice(from..end), &mut fields, &mut out)?;
        black_box(&out);
        out.clear();
        from = end;
    }
    stream.finish(&mut fields, &mut out)
}

/// Pods as the server writes them: of a Deployment, scheduled and running.
fn list() -> String {
    let mut list =
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"123456"},"items":["#.to_owned();
    for number in 0..5000 {
        if number > 0 {
            list.push(',');
        }
        list.push_str(
            &include_str!("json_list_pod.json")
                .trim_end()
                .replace("NUMBER", &number.to_string()),
        );
    }
    list.push_str("]}\n");
    list
}

//! The same for people.

use bailiff_policy::report::CertificateState;

use super::summary::{NodeState, ObjectLine, Summary};
use crate::cli::sessions::{Out, Paint, plain};

/// Rows, and of what colour each is where it isn't well.
type Rows = Vec<(Vec<String>, Option<Paint>)>;

pub(super) fn print(out: &mut Out, summary: &Summary) {
    let nodes = summary.nodes.iter().map(|node| {
        let count = |number: fn(&super::summary::NodeSaid) -> u32| {
            node.said
                .as_ref()
                .map_or_else(|| "-".to_owned(), |said| number(said).to_string())
        };
        let text =
            |text: fn(&super::summary::NodeSaid) -> String| node.said.as_ref().map_or("-".to_owned(), text);
        let (state, paint) = match node.state {
            NodeState::Ready => ("ready", None),
            NodeState::NotReady => ("not ready", Some(Paint::Red)),
            NodeState::Silent => ("silent", Some(Paint::Yellow)),
            NodeState::NoReport => ("no report", Some(Paint::Red)),
        };
        let uncovered = node.said.as_ref().is_some_and(|said| said.pods.not_covered > 0);
        let row = vec![
            node.name.clone(),
            state.to_owned(),
            text(|said| format!("{:?}", said.mode).to_lowercase()),
            count(|said| said.pods.enforced),
            count(|said| said.pods.observed),
            count(|said| said.pods.exempt),
            count(|said| said.pods.not_covered),
            count(|said| said.objects.targets),
            count(|said| said.objects.policies),
            count(|said| said.objects.refused),
            text(|said| said.version.clone()),
            node.reason.clone(),
        ];
        (row, paint.or(uncovered.then_some(Paint::Yellow)))
    });
    let heads = [
        "NODE",
        "STATE",
        "MODE",
        "ENFORCED",
        "OBSERVED",
        "EXEMPT",
        "NOT COVERED",
        "TARGETS",
        "POLICIES",
        "REFUSED",
        "VERSION",
        "WHY",
    ];
    table(out, &heads, nodes.collect());
    let pods = summary.not_covered.iter().map(|pod| {
        let row = vec![
            format!(
                "{}/{}",
                if pod.namespace.is_empty() {
                    "?"
                } else {
                    &pod.namespace
                },
                pod.name
            ),
            pod.node.clone(),
            pod.reason.clone(),
        ];
        (row, Some(Paint::Yellow))
    });
    table(out, &["POD NOT COVERED", "NODE", "WHY"], pods.collect());
    objects(out, "TARGET", "PROTOCOL", &summary.targets);
    objects(out, "POLICY", "MODE", &summary.policies);
    let certificates = summary.certificates.iter().map(|certificate| {
        let state = match certificate.state {
            CertificateState::Good if certificate.ends_soon => "ends soon",
            CertificateState::Good => "good",
            CertificateState::Ending => "ending",
            CertificateState::Missing => "missing",
            CertificateState::Untrusted => "untrusted",
        };
        let row = vec![
            certificate.target.clone(),
            certificate.role.clone(),
            state.to_owned(),
            certificate.not_after.clone().unwrap_or_else(|| "-".to_owned()),
            certificate.nodes.len().to_string(),
            certificate.reason.clone(),
        ];
        (row, (!certificate.is_well()).then_some(Paint::Yellow))
    });
    table(
        out,
        &["CERTIFICATE OF", "FOR", "STATE", "ENDS", "NODES", "WHY"],
        certificates.collect(),
    );
    for note in &summary.notes {
        out.line(&format!("Note: {}", plain(note)));
    }
    let verdict = if summary.ok {
        out.paint(Paint::Green, "All is well.")
    } else {
        out.paint(Paint::Red, "Not all is well: see above.")
    };
    out.line(&verdict);
}

fn objects(out: &mut Out, kind: &str, about: &str, objects: &[ObjectLine]) {
    let rows = objects.iter().map(|object| {
        let judged = &object.judged;
        let mends: Vec<_> = judged
            .refusals
            .iter()
            .filter(|refusal| !refusal.mend.is_empty())
            .map(|refusal| refusal.mend.as_str())
            .collect();
        let why = match (judged.status, mends.as_slice()) {
            ("True", _) => String::new(),
            (_, []) => judged.message.clone(),
            (_, mends) => format!("{} (mend: {})", judged.message, mends.join("; ")),
        };
        let row = vec![
            object.name.clone(),
            object.about.clone(),
            format!("{}/{}", judged.accepted, judged.total),
            judged.reason.to_owned(),
            why,
        ];
        let paint = match judged.status {
            "True" => None,
            "False" => Some(Paint::Red),
            _ => Some(Paint::Yellow),
        };
        (row, paint)
    });
    table(out, &[kind, about, "ACCEPTED", "STATE", "WHY"], rows.collect());
}

/// Columns as wide as what stands in them; nothing where there is no row.
fn table(out: &mut Out, heads: &[&str], rows: Rows) {
    if rows.is_empty() {
        return;
    }
    let rows: Rows = rows
        .into_iter()
        .map(|(row, paint)| (row.iter().map(|cell| plain(cell)).collect(), paint))
        .collect();
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let cells = rows
                .iter()
                .map(|(row, _)| row.get(column).map_or(0, |cell| cell.chars().count()));
            cells.chain([head.len()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        line.trim_end().to_owned()
    };
    let head = line(&mut heads.iter().copied());
    out.line(&out.paint(Paint::Bold, &head));
    for (row, paint) in &rows {
        let text = line(&mut row.iter().map(String::as_str));
        let text = paint.map_or_else(|| text.clone(), |paint| out.paint(paint, &text));
        out.line(&text);
    }
    out.line("");
}

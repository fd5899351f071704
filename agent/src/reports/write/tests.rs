use bailiff_policy::report::{
    CertificateReport, CertificateState, DataPath, MAX_CERTIFICATES, MAX_PODS, NotCovered, PodCounts,
};
use bailiff_policy::{Problem, Sources};

use super::super::findings::Wrong;
use super::*;

fn revisions(state: u64, pods: u64) -> Revisions {
    Revisions {
        objects: 1,
        state,
        pods,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn it_is_written_when_something_has_changed_and_seldom() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    assert!(!pace.is_due(start, revisions(1, 0)), "the pods weren't looked at");
    assert!(pace.is_due(start, revisions(1, 1)));
    pace.tried(start, revisions(1, 1), true, 128);
    let due = |pace: &Pace, after, revisions| pace.is_due(start + seconds(after), revisions);
    assert!(!due(&pace, 7, revisions(2, 1)) && due(&pace, 8, revisions(2, 1)));
    assert!(!due(&pace, 22, revisions(1, 2)) && due(&pace, 23, revisions(1, 2)));
    assert!(!due(&pace, 329, revisions(1, 1)) && due(&pace, 330, revisions(1, 1)));
    // However often pods come and go in an hour.
    let (mut pace, mut writes) = (Pace::new(start), 0);
    for second in 0..3600 {
        let (now, pods) = (start + seconds(second), revisions(1, second + 1));
        if pace.is_due(now, pods) {
            pace.tried(now, pods, true, u8::try_from(second % 256).unwrap());
            writes += 1;
        }
    }
    assert!((120..=240).contains(&writes), "{writes}");
}

#[test]
fn what_fails_is_tried_less_and_less_often() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let (mut now, mut waits) = (start, Vec::new());
    for _ in 0..8 {
        pace.tried(now, revisions(1, 1), false, 0);
        let wait = (0..1000)
            .find(|wait| pace.is_due(now + seconds(*wait), revisions(9, 9)))
            .unwrap();
        waits.push(wait);
        now += seconds(wait);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
    pace.tried(now, revisions(9, 9), true, 0);
    assert!(!pace.is_due(now + seconds(4), revisions(10, 9)));
}

#[test]
fn the_largest_report_stays_far_below_what_the_api_server_takes() {
    let folder = tempfile::tempdir().unwrap();
    let long = "n".repeat(240);
    let uid = "0".repeat(36);
    let mut problems = Vec::new();
    for number in 0..1_200 {
        for kind in ["Target", "Policy"] {
            let file = folder.path().join(format!("{kind}-{number}.yaml"));
            let object = json!({
                "kind": kind, "metadata": {"name": format!("{long}{number:013}"), "uid": uid, "generation": number},
            });
            std::fs::write(&file, object.to_string()).unwrap();
            problems.push(Problem {
                file: file.display().to_string(),
                line: 1,
                reason: "\"why\" ".repeat(1000),
                mend: "mend ".repeat(1000),
            });
        }
    }
    let findings = Findings::default();
    findings.refused(&Sources::read(folder.path()), &Wrong::Problems(&problems));
    let not_covered = vec![
        NotCovered {
            namespace: "n".repeat(63),
            name: "n".repeat(253),
            reason: "w".repeat(MAX_REASON),
        };
        250
    ];
    findings.pods(PodCounts::default(), not_covered);
    let certificate = CertificateReport {
        target: long,
        role: "target_ca".to_owned(),
        state: CertificateState::Missing,
        reason: "w".repeat(MAX_REASON),
        not_after: Some(now()),
        renewed: true,
    };
    findings.state(DataPath::default(), vec![certificate; 1_000]);
    let about = About {
        node: "n".repeat(253),
        mode: Mode::Enforce,
        from: PoliciesFrom::Cluster,
    };
    let report = report(&about, &findings.found(), &now());
    assert_eq!(
        (
            report.targets.len(),
            report.policies.len(),
            report.not_covered.len(),
            report.certificates.len(),
            report.objects.refused,
        ),
        (1_000, 1_000, MAX_PODS, MAX_CERTIFICATES, 2_400)
    );
    let size = serde_json::to_vec(&report).unwrap().len();
    assert!(size < 1_200_000, "{size}");
    // A thousand policies as they usually are, and 250 pods.
    let mut usual = report;
    usual.targets.truncate(20);
    for object in usual.policies.iter_mut().chain(&mut usual.targets) {
        object.name = "team-payments-read-only".to_owned();
        object.reason.clear();
        object.mend.clear();
    }
    usual.certificates.truncate(20);
    let size = serde_json::to_vec(&usual).unwrap().len();
    assert!(size < 250_000, "{size}");
}

//! What is in force of objects of which some are refused.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::Effect;
use bailiff_policy::{PolicySet, Sources};

const RULES: &str = "rules: [{name: r, effects: [read], action: Allow}]";

fn target(name: &str, last: u8) -> (String, String) {
    let text = format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata: {{name: {name}}}\nspec: {{protocol: postgres, default: Allow, endpoints: [\"10.0.0.{last}:5432\"]}}\n"
    );
    (format!("target-{name}.yaml"), text)
}

fn policy(name: &str, targets: &str, rest: &str) -> (String, String) {
    let text = format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {{name: {name}}}\nspec: {{targets: [{targets}], {rest}}}\n"
    );
    (format!("policy-{name}.yaml"), text)
}

/// What is loaded of these and refused in whole.
fn load(files: &[(String, String)], also: &[&str]) -> Result<PolicySet> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    let sources = Sources::read(folder.path());
    ensure!(
        sources.load_in_cluster().is_err() || !also.is_empty(),
        "nothing is wrong with these"
    );
    let also: HashSet<String> = also
        .iter()
        .map(|name| folder.path().join(name).display().to_string())
        .collect();
    Ok(sources.load_what_can_be(&also)?.set)
}

/// Each target that is protected, and what it does with what no policy names.
fn defaults(set: &PolicySet) -> Vec<(String, Effect)> {
    set.targets()
        .iter()
        .map(|target| (target.name.to_string(), target.default))
        .collect()
}

fn are(set: &PolicySet, wanted: &[(&str, Effect)]) -> Result<()> {
    let found = defaults(set);
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(name, effect)| ((*name).to_owned(), *effect))
        .collect();
    ensure!(found == wanted, "{found:?}");
    Ok(())
}

#[test]
fn where_a_policy_is_refused_its_targets_deny_everything() -> Result<()> {
    let files = [
        target("one", 1),
        target("two", 2),
        policy("good", "one, two", RULES),
        policy("bad", "one", "rules: [{name: r, effects: [reed], action: Allow}]"),
    ];
    let set = load(&files, &[])?;
    are(&set, &[("one", Effect::Deny), ("two", Effect::Allow)])?;
    ensure!(set.policies() == 1);
    // The same for one that is refused for a file that it names.
    let files = [target("one", 1), target("two", 2), policy("good", "two", RULES)];
    are(
        &load(&files, &["policy-good.yaml"])?,
        &[("one", Effect::Allow), ("two", Effect::Deny)],
    )
}

#[test]
fn one_about_everything_or_that_cant_be_read_closes_all() -> Result<()> {
    let (one, two) = (target("one", 1), target("two", 2));
    let unreadable = |text: &str| ("policy-x.yaml".to_owned(), text.to_owned());
    for bad in [
        policy("bad", "\"*\"", "rules: 5"),
        unreadable("kind: ["),
        unreadable("apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {name: x}\n"),
        unreadable(
            "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {name: x}\nspec: {targets: {}}\n",
        ),
        unreadable("apiVersion: bailiff.dev/v9\nkind: Other\nmetadata: {name: x}\nspec: {targets: [one]}\n"),
    ] {
        let told = bad.1.clone();
        let set = load(
            &[one.clone(), two.clone(), policy("good", "\"*\"", RULES), bad],
            &[],
        )?;
        are(&set, &[("one", Effect::Deny), ("two", Effect::Deny)]).context(told)?;
    }
    Ok(())
}

#[test]
fn a_refused_target_leaves_the_others_and_their_policies() -> Result<()> {
    // The second has the first one's address.
    let mut two = target("two", 1);
    two.0 = "target-zwei.yaml".to_owned();
    let files = [
        target("one", 1),
        two,
        policy("both", "one, two", RULES),
        policy("second", "two", RULES),
    ];
    let set = load(&files, &[])?;
    are(&set, &[("one", Effect::Allow)])?;
    ensure!(set.policies() == 1);
    // One whose text can't be read is known by its name.
    let bad = (
        "target-bad.yaml".to_owned(),
        "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata: {name: bad}\nspec: {protocol: gopher}\n"
            .to_owned(),
    );
    let files = [target("one", 1), bad, policy("both", "one, bad", RULES)];
    let set = load(&files, &[])?;
    are(&set, &[("one", Effect::Allow)])?;
    ensure!(set.policies() == 1);
    Ok(())
}

#[test]
fn what_names_a_target_that_never_was_closes_what_else_it_names() -> Result<()> {
    let files = [
        target("one", 1),
        target("two", 2),
        policy("lost", "one, nowhere", RULES),
    ];
    let set = load(&files, &[])?;
    are(&set, &[("one", Effect::Deny), ("two", Effect::Allow)])?;
    ensure!(set.policies() == 0);
    Ok(())
}

#[test]
fn a_directory_that_isnt_there_is_no_empty_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources::read(&folder.path().join("nowhere"));
    assert!(sources.load_what_can_be(&HashSet::new()).is_err());
}

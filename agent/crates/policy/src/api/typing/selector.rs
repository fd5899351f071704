//! Field and label selectors, as far as an object's name depends on them.

/// The name that a field selector asks for by `metadata.name=`, if it is a selector and the name can stand in a path.
///
/// Source: `k8s.io/apimachinery/pkg/fields`, `ParseSelector` and `RequiresExactMatch`.
pub(super) fn name(selector: &str) -> Option<String> {
    let mut found: Option<(&str, String)> = None;
    for term in terms(selector).filter(|term| !term.is_empty()) {
        // One bad term spoils the selector.
        let (field, equal, value) = parts(term)?;
        let value = unescaped(value)?;
        // Of several the server takes the one that sorts first, with its operator and all.
        if equal && field == "metadata.name" && found.as_ref().is_none_or(|(before, _)| term < *before) {
            found = Some((term, value));
        }
    }
    found
        .map(|(_, name)| name)
        .filter(|name| !name.is_empty() && !matches!(name.as_str(), "." | "..") && !name.contains(['/', '%']))
}

/// Splits at commas without a backslash before them.
fn terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    selector.split(move |c| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

/// The field, whether it is to equal, and the value as written.
fn parts(term: &str) -> Option<(&str, bool, &str)> {
    let at = term
        .char_indices()
        .find(|&(at, c)| {
            c == '=' || c == '!' && term.get(at + 1..).is_some_and(|rest| rest.starts_with('='))
        })?
        .0;
    let (field, rest) = term.split_at_checked(at)?;
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, true, value))
}

fn unescaped(value: &str) -> Option<String> {
    let mut unescaped = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        unescaped.push(match c {
            '\\' => chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?,
            ',' | '=' => return None,
            _ => c,
        });
    }
    Some(unescaped)
}

/// Whether a label selector is surely one for the server. It takes more forms than this: ordering, lists with gaps, odd spacing.
///
/// Source: `k8s.io/apimachinery/pkg/labels`, `Parse`.
pub(super) fn is_labels(selector: &str) -> bool {
    if selector.is_empty() {
        return true;
    }
    let mut depth = 0_u32;
    selector
        .split(|c| {
            match c {
                '(' => depth = depth.saturating_add(1),
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .all(is_requirement)
}

fn is_requirement(term: &str) -> bool {
    if let Some(key) = term.strip_prefix('!') {
        return is_key(key);
    }
    if let Some((key, set)) = term.split_once(' ') {
        return is_key(key)
            && set
                .strip_prefix("in (")
                .or_else(|| set.strip_prefix("notin ("))
                .and_then(|set| set.strip_suffix(')'))
                .is_some_and(|values| values.split(',').all(is_value));
    }
    let (key, value) = term
        .split_once("!=")
        .or_else(|| term.split_once("=="))
        .or_else(|| term.split_once('='))
        .map_or((term, None), |(key, value)| (key, Some(value)));
    is_key(key) && value.is_none_or(|value| value.is_empty() || is_value(value))
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    is_value(name) && prefix.is_none_or(is_domain)
}

fn is_domain(domain: &str) -> bool {
    domain.len() <= 253
        && domain.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

/// A label's value that isn't empty, or a key's name. The operators' words are left out: where they may stand is the lexer's affair.
fn is_value(value: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    value.len() <= 63
        && value.starts_with(ends)
        && value.ends_with(ends)
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !matches!(value, "in" | "notin")
}

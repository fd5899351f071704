//! A tree as a picture's source.

use super::tree::{Node, Tree};
use crate::cli::sessions::Out;

/// For Graphviz. What isn't observed is dashed.
pub(super) fn dot(tree: &Tree, out: &mut Out) {
    out.line("digraph chain {");
    out.line("  rankdir=LR; node [shape=box, fontname=\"sans-serif\"];");
    each(tree, &mut |number, above, node| {
        let style = if node.grade == "observed" {
            "solid"
        } else {
            "dashed"
        };
        let text = format!("{}\n[{}]", node.text, node.grade).replace('\\', "\\\\");
        let text = text.replace('"', "\\\"").replace('\n', "\\n");
        out.line(&format!("  n{number} [label=\"{text}\", style={style}];"));
        if let Some(above) = above {
            out.line(&format!("  n{above} -> n{number} [style={style}];"));
        }
    });
    out.line("}");
}

/// For Markdown.
pub(super) fn mermaid(tree: &Tree, out: &mut Out) {
    out.line("flowchart LR");
    each(tree, &mut |number, above, node| {
        let text = format!("{} [{}]", node.text, node.grade);
        out.line(&format!("  n{number}[\"{}\"]", escaped(&text)));
        if let Some(above) = above {
            let arrow = if node.grade == "observed" { "-->" } else { "-.->" };
            out.line(&format!("  n{above} {arrow} n{number}"));
        }
    });
}

/// Each node with its number and that of the one above it, which comes first.
fn each(tree: &Tree, work: &mut impl FnMut(usize, Option<usize>, &Node)) {
    fn below(
        nodes: &[Node],
        above: Option<usize>,
        next: &mut usize,
        work: &mut impl FnMut(usize, Option<usize>, &Node),
    ) {
        for node in nodes {
            let number = *next;
            *next += 1;
            work(number, above, node);
            below(&node.below, Some(number), next, work);
        }
    }
    below(&tree.nodes, None, &mut 0, work);
}

/// Letters that mean something to Mermaid or to HTML, as entities.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '<' | '>' | '&' | '#' | '`' | '[' | ']' | '(' | ')' | '{' | '}' | ';' | '\\' => {
                escaped.push_str(&format!("#{};", u32::from(letter)));
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_holds_no_more_than_its_texts() {
        assert_eq!(escaped("a\"]; click n0 <b>"), "a#34;#93;#59; click n0 #60;b#62;");
    }
}

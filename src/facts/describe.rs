//! The facts as a person reads them.

use super::{Fact, Facts};

/// The text of `nodecert facts`: name, value and source in columns, then what was left out. Ends with a line feed.
#[must_use]
pub fn describe(facts: &Facts) -> String {
    let rows = [names(facts), addresses(facts)].concat();
    let mut text = columns(&rows);
    if !facts.left_out.is_empty() {
        let left_out: Vec<_> = facts.left_out.iter().map(|l| row("", &l.what, &l.why)).collect();
        text.push_str("\nleft out\n");
        text.push_str(&columns(&left_out));
    }
    text
}

type Row = [String; 3];

fn row(name: &str, value: &str, source: &str) -> Row {
    [name, value, source].map(str::to_owned)
}

fn names(facts: &Facts) -> Vec<Row> {
    let known = |name, fact: &Fact<String>| row(name, &fact.value, &fact.source);
    let maybe =
        |name, fact: Option<&Fact<String>>, why| fact.map_or_else(|| row(name, "-", why), |f| known(name, f));
    vec![
        known("hostname", &facts.hostname),
        maybe("domain", facts.domain.as_ref(), "not found; set domain in [node] if there is one"),
        known("fqdn", &facts.fqdn),
        known("nodename", &facts.nodename),
        maybe("machine id", facts.machine_id.as_ref(), "/etc/machine-id is missing or not initialized"),
    ]
}

fn addresses(facts: &Facts) -> Vec<Row> {
    let Some(primary) = &facts.primary else {
        return vec![row(
            "addresses",
            "-",
            "none found; set addresses or interfaces in [node] if there are any",
        )];
    };
    let mut rows = vec![row("primary", &primary.value.to_string(), &primary.source)];
    for (index, address) in facts.addresses.iter().enumerate() {
        let name = if index == 0 { "addresses" } else { "" };
        rows.push(row(name, &address.ip.to_string(), &address.source));
    }
    rows
}

/// The first two columns as wide as their widest cell; an empty first column shrinks to the indent.
fn columns(rows: &[Row]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    rows.iter().map(|[name, value, source]| format!("{name:first$}  {value:second$}  {source}\n")).collect()
}

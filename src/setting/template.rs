//! Values that hold expressions: checked where they are read, given on the host, and bounded.

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, escape_formatter, value::ValueKind};
use serde::Deserialize;
use serde::de::{self, Deserializer};

/// The names a template may use.
pub const SCOPE: [&str; 6] = ["hostname", "fqdn", "domain", "nodename", "addresses", "machine_id"];

/// The values of [`SCOPE`] on one host; what is not known there is absent.
#[derive(Debug, Clone, Default)]
pub struct Scope(pub BTreeMap<&'static str, Value>);

/// A value that may hold `{{ expressions }}` over [`SCOPE`], checked where it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    is_plain: bool,
}

impl Template {
    /// Parses a template; the error names what is wrong in it and what may be used.
    pub fn new(text: &str) -> Result<Self, String> {
        if ["{{", "{%", "{#"].iter().all(|mark| !text.contains(mark)) {
            return Ok(Self::literal(text));
        }
        let environment = environment();
        let template = environment.template_from_str(text).map_err(|e| format!("faulty template: {e}"))?;
        let mut unknown: Vec<_> = template.undeclared_variables(false).into_iter().collect();
        unknown
            .retain(|name| !SCOPE.contains(&name.as_str()) && environment.globals().all(|(g, _)| g != name));
        unknown.sort();
        match unknown.first() {
            Some(name) => Err(format!(
                "the template uses {name:?}, which is not defined; there are {}",
                SCOPE.join(", ")
            )),
            None => Ok(Self { text: text.to_owned(), is_plain: false }),
        }
    }

    /// A text that stands for itself, whatever is in it.
    pub fn literal(text: &str) -> Self {
        Self { text: text.to_owned(), is_plain: true }
    }

    /// The text on this host; the error says which expression has no value here.
    pub fn render(&self, scope: &Scope) -> Result<String, String> {
        if self.is_plain {
            return Ok(self.text.clone());
        }
        environment().render_str(&self.text, &scope.0).map_err(|e| unrendered(&self.text, &e))
    }

    /// The texts on this host: a template that is one expression giving a list stands for all of it.
    pub fn splice(&self, scope: &Scope) -> Result<Vec<String>, String> {
        let Some(expression) = sole_expression(&self.text).filter(|_| !self.is_plain) else {
            return Ok(vec![self.render(scope)?]);
        };
        let environment = environment();
        let value = environment
            .compile_expression(expression)
            .and_then(|e| e.eval(&scope.0))
            .map_err(|e| unrendered(&self.text, &e))?;
        match (value.kind(), value.try_iter()) {
            (ValueKind::Seq, Ok(items)) if fits(&value, &mut { LIST }, DEPTH) => {
                Ok(items.map(|item| item.to_string()).collect())
            }
            _ => Ok(vec![self.render(scope)?]),
        }
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Template::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What a template may take, in steps of the engine: a moment, and far more than any file needs. It counts one too
/// for each 64 bytes that it makes (minijinja, `Environment::set_fuel`).
const STEPS: u64 = 250_000;
/// Bytes; of a list that is written out as it is.
const LIST: usize = 1_000_000;
/// Lists in lists; each takes its part of the stack.
const DEPTH: usize = 100;

/// Templates fail on what is not defined, rather than put an empty name into a certificate, and end.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(STEPS));
    // What a list takes that is repeated, or holds itself many times over, is counted only once it is written out.
    environment.set_formatter(|out, state, value| match fits(value, &mut { LIST }, DEPTH) {
        true => escape_formatter(out, state, value),
        false => Err(ErrorKind::OutOfFuel.into()),
    });
    environment
}

/// Whether a value, where it is a list or a map, is written out in so many bytes, and lists in lists so deep.
fn fits(value: &Value, left: &mut usize, deep: usize) -> bool {
    let Some(mut items) = value.as_object().and_then(|_| value.try_iter().ok()) else { return true };
    let Some(deeper) = deep.checked_sub(1) else { return false };
    let is_map = value.kind() == ValueKind::Map;
    items.all(|item| {
        *left = left.saturating_sub(1 + item.as_str().map_or(0, str::len));
        let inner = if is_map { value.get_item(&item).unwrap_or_default() } else { item };
        *left > 0 && fits(&inner, left, deeper)
    })
}

/// What the engine says, or that it came to our bound.
pub(crate) fn said_of_template(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => {
            let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
            format!(
                "it takes more than {STEPS} steps, 16 MB, or 1 MB for a list, or has more than {DEPTH} lists in one another{line}"
            )
        }
        _ => error.to_string(),
    }
}

fn sole_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then_some(inner)
}

fn unrendered(text: &str, error: &minijinja::Error) -> String {
    let why = said_of_template(error);
    format!("the template {text:?} has no value on this host: {why}; `nodecert facts` shows what is known")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope(BTreeMap::from([
            ("hostname", Value::from("node01")),
            ("addresses", Value::from(vec!["10.0.0.1", "fd00::1"])),
        ]))
    }

    #[test]
    fn a_template_that_is_one_list_stands_for_all_of_it() {
        let splice = |text: &str| Template::new(text).and_then(|template| template.splice(&scope()));
        assert_eq!(splice("{{ addresses }}"), Ok(vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()]));
        assert_eq!(splice("{{ hostname }}.x"), Ok(vec!["node01.x".to_owned()]));
        assert_eq!(splice("{{ addresses[0] }}"), Ok(vec!["10.0.0.1".to_owned()]));
        assert_eq!(splice("plain"), Ok(vec!["plain".to_owned()]));
    }

    #[test]
    fn a_template_that_would_not_end_does() {
        let loops = |depth| "{% for i in range(2000) %}".repeat(depth) + &"{% endfor %}".repeat(depth);
        let render = |depth| Template::new(&loops(depth)).and_then(|template| template.render(&scope()));
        assert!(render(1).is_ok());
        let refused = render(2).err();
        assert!(
            refused.is_some_and(|why| why.contains("more than 250000 steps") && why.contains("(line 1)"))
        );
    }

    #[test]
    fn a_template_that_asks_for_gigabytes_gets_none_of_them() {
        let once = "{{ 'x' * 4000000 }}";
        let often = format!("{{% for i in range(500) %}}{once}{{% endfor %}}");
        let apart = "{% set a = 'x' * 1000000 %}".to_owned() + &"{% set a = a ~ a %}".repeat(11);
        let list = "{{ ['x'] * 90000000 }}";
        let laughs = "{% set a = ['x'] %}".to_owned() + &"{% set a = [a, a] %}".repeat(40) + "{{ a }}";
        let render = |text: &str| Template::new(text).and_then(|template| template.render(&scope()));
        assert_eq!(render(once).map(|text| text.len()), Ok(4_000_000));
        let splice = |text: &str| Template::new(text).and_then(|template| template.splice(&scope()));
        assert!(splice("{{ [['x'] * 90000000] }}").is_err_and(|error| error.contains("1 MB for a list")));
        let deep = "{% set ns = namespace(a=['x']) %}{% for i in range(2000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}";
        for text in [often.as_str(), &apart, list, &laughs, deep, "{{ {'a': ['x'] * 90000000} }}"] {
            assert!(
                render(text).is_err_and(|error| error.contains("more than 250000 steps, 16 MB")),
                "{text}"
            );
        }
    }

    #[test]
    fn an_undefined_name_is_found_where_the_template_is_read_and_an_unknown_value_on_the_host() {
        assert!(Template::new("{{ hostnam }}").is_err_and(|why| why.contains("\"hostnam\"")));
        assert!(Template::new("{{ hostname").is_err());
        let domain = Template::new("{{ domain }}").and_then(|template| template.render(&scope()));
        assert!(domain.is_err_and(|why| why.contains("nodecert facts")));
    }
}

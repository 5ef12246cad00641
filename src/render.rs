//! What a rendered file's data looks like on disk.

use serde_json::{Map, Value};

use crate::file::Content;
use crate::setting::{Scope, Secret, environment, said_of_template};

/// The first line of what nodecert renders: by it a file is known as its own where the state was lost.
pub const HEADER: &str = "# Written by nodecert; changes here are lost. Change its configuration instead.\n";

/// Why a file cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template is faulty or uses what this host does not have.
    #[error("{path}: {why}; a template may use {}", crate::setting::SCOPE.join(", "))]
    Template {
        /// The template's path.
        path: String,
        /// What the template engine says, without the values it knows.
        why: String,
    },
    /// A value that the form cannot hold.
    #[error("{name} has the value {value:?}, which an environment file cannot hold: it must be one line")]
    Env {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// The library could not write the YAML.
    #[error("cannot write the YAML")]
    Yaml(#[source] serde_saphyr::ser::Error),
}

/// Renders a content; `template` is the text of its template, if it has one, or what is written as it is.
pub fn render(content: &Content, template: &str, scope: &Scope) -> Result<String, RenderError> {
    match content {
        Content::Yaml(mapping) => yaml(mapping),
        Content::Env(lines) => env(lines),
        Content::Text(text) => Ok(format!("{HEADER}{text}")),
        Content::Bare(text) => Ok(text.clone()),
        Content::Filled(content, _) => render(content, template, scope),
        Content::Crl(_) | Content::Part(..) => Ok(template.to_owned()),
        Content::Template(path) => {
            let path = path.display().to_string();
            let rendered = environment().render_named_str(&path, template, &scope.0);
            let mut rendered =
                rendered.map_err(|e| RenderError::Template { path, why: said_of_template(&e) })?;
            // The engine drops a text's last newline; most consumers want it.
            if template.ends_with('\n') {
                rendered.push('\n');
            }
            Ok(rendered)
        }
    }
}

/// Puts what is known now in the place of its marks.
pub fn fill(content: &Content, values: &[(String, Secret)]) -> Content {
    match content {
        Content::Filled(content, _) => fill(content, values),
        Content::Yaml(mapping) => {
            let filled = mapping.iter().map(|(key, value)| (key.clone(), fill_value(value, values)));
            Content::Yaml(filled.collect())
        }
        Content::Bare(text) => Content::Bare(fill_text(text, values)),
        other => other.clone(),
    }
}

fn fill_value(value: &Value, values: &[(String, Secret)]) -> Value {
    match value {
        Value::String(text) => Value::String(fill_text(text, values)),
        Value::Array(items) => items.iter().map(|item| fill_value(item, values)).collect(),
        Value::Object(table) => {
            table.iter().map(|(key, value)| (key.clone(), fill_value(value, values))).collect()
        }
        other => other.clone(),
    }
}

fn fill_text(text: &str, values: &[(String, Secret)]) -> String {
    values.iter().fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value.expose()))
}

fn yaml(mapping: &Map<String, Value>) -> Result<String, RenderError> {
    // A text of one word on one line, however long.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let body = serde_saphyr::to_string_with_options(mapping, options).map_err(RenderError::Yaml)?;
    Ok(format!("{HEADER}{body}"))
}

/// systemd.exec(5) `EnvironmentFile=`: in double quotes, with backslash, quote, dollar and backtick escaped.
fn env(lines: &[(String, String)]) -> Result<String, RenderError> {
    let mut text = HEADER.to_owned();
    for (name, value) in lines {
        if value.contains(['\n', '\r', '\0']) {
            return Err(RenderError::Env { name: name.clone(), value: value.clone() });
        }
        let escaped =
            value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`");
        text.push_str(&format!("{name}=\"{escaped}\"\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(content: &Content, template: &str) -> Result<String, RenderError> {
        let scope = Scope(std::collections::BTreeMap::from([("hostname", minijinja::Value::from("node01"))]));
        render(content, template, &scope)
    }

    #[test]
    fn a_value_cannot_leave_its_line_of_an_environment_file() {
        let line = |value: &str| Content::Env(vec![("A".to_owned(), value.to_owned())]);
        let text = rendered(&line(r#"a "b" $c `d` \e"#), "").expect("one line");
        assert_eq!(text, format!("{HEADER}A=\"a \\\"b\\\" \\$c \\`d\\` \\\\e\"\n"));
        assert!(matches!(rendered(&line("a\nB=1"), ""), Err(RenderError::Env { .. })));
    }

    #[test]
    fn what_is_filled_in_stands_where_its_mark_stood_and_as_a_text() {
        let fill = crate::file::Fill::Keepsake(crate::setting::Name::new("a").expect("a name"));
        let mapping = serde_json::json!({"token": fill.mark(), "list": [{"of": fill.mark()}], "number": 1});
        let yaml = Content::Yaml(mapping.as_object().cloned().expect("a mapping"));
        let values = [(fill.mark(), Secret::new("0123"))];
        let filled = super::fill(&Content::Filled(Box::new(yaml), vec![fill.clone()]), &values);
        let text = rendered(&filled, "").expect("rendered");
        assert_eq!(text, format!("{HEADER}token: \"0123\"\nlist:\n- of: \"0123\"\nnumber: 1\n"));
        let bare = Content::Bare(format!("{},user\n", fill.mark()));
        assert_eq!(rendered(&super::fill(&bare, &values), "").expect("rendered"), "0123,user\n");
    }

    #[test]
    fn a_template_keeps_its_last_newline_and_names_itself_when_it_fails() {
        let content = Content::Template("/etc/t.conf".into());
        assert_eq!(rendered(&content, "name {{ hostname }}\n").expect("rendered"), "name node01\n");
        let failed = rendered(&content, "{{ nothing }}").expect_err("undefined").to_string();
        assert!(failed.starts_with("/etc/t.conf: "), "{failed}");
        let large = "{% for i in range(99) %}{{ 'x' * 1000000 }}{% endfor %}";
        let failed = rendered(&content, large).expect_err("too large").to_string();
        assert!(failed.starts_with("/etc/t.conf: it takes more than"), "{failed}");
    }
}

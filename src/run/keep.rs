//! Keepsakes: placed where they belong, made if they never were, never made twice.

use std::collections::BTreeSet;
use std::path::Path;

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::survey::Survey;
use super::{Run, World};
use crate::certificate::Owner;
use crate::disk;
use crate::file::{Content, File};
use crate::hooks;
use crate::keepsake::{self, Form, Keepsake, Next, Origin, There, Unkept, Value};
use crate::key::pem_block;
use crate::report::{Action, FileLine};
use crate::setting::{Mode, Name, RETOLD, Secret};

impl Run<'_> {
    /// Brings each keepsake that is asked for to its place; a line for each of its files.
    pub(super) fn keepsakes(&self, survey: &Survey, asked: &BTreeSet<Name>) -> Vec<FileLine> {
        let concerned = survey.concerned(asked);
        let wanted =
            survey.node.keepsakes.iter().filter(|keepsake| concerned.contains(keepsake.path.as_path()));
        wanted.flat_map(|keepsake| self.keep(survey, keepsake)).collect()
    }

    fn keep(&self, survey: &Survey, keepsake: &Keepsake) -> Vec<FileLine> {
        let mut lines = lines(survey, self.world, keepsake);
        let value = match self.value(keepsake) {
            Ok(value) => value,
            Err(failure) => {
                let trouble = survey.trouble(&failure, &survey.table_of(&keepsake.name, &keepsake.path));
                warn!(target: RETOLD, keepsake = %keepsake.name, "{}", trouble.message);
                for line in &mut lines {
                    (line.action, line.reason) =
                        (Action::Blocked, format!("waits for {}", keepsake.path.display()));
                }
                lines[0].trouble = Some(trouble);
                return lines;
            }
        };
        let contents = contents(keepsake, &value);
        if matches!(keepsake.origin, Origin::Given(_)) {
            // What lay there, damaged or another, tells nothing of the files that this one has.
            lines = lines_of(survey, self.world, keepsake, &contents);
        }
        for ((file, content), line) in contents.iter().zip(&mut lines) {
            match self.put(keepsake, file, content, survey) {
                Ok(changed) => line.changed = changed,
                Err(failure) => {
                    let table = survey.table_of(&keepsake.name, &file.path);
                    line.trouble = Some(survey.trouble(&failure, &table));
                }
            }
            if line.changed {
                info!(path = %file.path.display(), "keepsake written");
            }
        }
        lines
    }

    fn put(&self, keepsake: &Keepsake, file: &File, content: &str, survey: &Survey) -> Result<bool, Failure> {
        if matches!(keepsake.form, Form::Pair { .. }) {
            if disk::differs(self.root(), file, content.as_bytes())?.is_some() {
                self.owe_readers(survey, &keepsake.users, &file.path)?;
            }
            return Ok(disk::put(self.root(), file, content.as_bytes(), survey.now)?);
        }
        // A text lies in our own state, and nowhere else.
        let changed = disk::differs(self.root(), file, content.as_bytes())?.is_some();
        if changed {
            disk::keep_secret(self.root(), &keepsake.state(), content.as_bytes())?;
        }
        Ok(changed)
    }

    fn value(&self, keepsake: &Keepsake) -> Result<Value, Failure> {
        let given = match &keepsake.origin {
            Origin::Given(source) => {
                Some(disk::secret(self.root(), source, |argv| hooks::output(argv, self.stop))?)
            }
            Origin::Made | Origin::Elsewhere(_) => None,
        };
        let placed = disk::read_key(self.root(), &keepsake.path)?;
        let made = disk::read_state(self.root(), &keepsake.state())?;
        let there = There {
            placed: placed.as_ref().map(|text| text.as_str()),
            made: made.as_ref().map(|text| text.as_str()),
            given: given.as_ref().map(Secret::expose),
            trace: !disk::present(self.root(), keepsake.trace.as_slice())?.is_empty(),
        };
        match keepsake::decide(keepsake, there).map_err(Failure::Keepsake)? {
            Next::Place(value) => Ok(value),
            Next::Make => {
                let value = keepsake.form.make()?;
                // In our own state first: should it get lost at its place, it comes back instead of another.
                disk::keep_secret(self.root(), &keepsake.state(), line(&value).as_bytes())?;
                info!(keepsake = %keepsake.name, "made; the other hosts of the control plane need a copy of {}", keepsake.path.display());
                Ok(value)
            }
        }
    }
}

/// What would be done, without asking the operator's secret.
pub(super) fn lines(survey: &Survey, world: &World, keepsake: &Keepsake) -> Vec<FileLine> {
    let table = survey.table_of(&keepsake.name, &keepsake.path);
    let line = |path: &Path, difference| survey.line_of(keepsake.name.to_string(), path, difference, &table);
    let text = match disk::read_key(&world.root, &keepsake.path) {
        Ok(text) => text,
        Err(error) => return vec![line(&keepsake.path, Err(error.into()))],
    };
    let value = text.as_deref().map(|text| keepsake.form.parse(text));
    match value {
        None => keepsake.paths().map(|path| line(path, Ok(Some(disk::ABSENT.to_owned())))).collect(),
        Some(None) => {
            let damaged = Unkept::damaged(keepsake);
            vec![line(&keepsake.path, Err(Failure::Keepsake(damaged)))]
        }
        Some(Some(value)) => lines_of(survey, world, keepsake, &contents(keepsake, &value)),
    }
}

fn lines_of(
    survey: &Survey,
    world: &World,
    keepsake: &Keepsake,
    contents: &[(File, Zeroizing<String>)],
) -> Vec<FileLine> {
    let line = |(file, content): &(File, Zeroizing<String>)| {
        let difference = disk::differs(&world.root, file, content.as_bytes());
        let table = survey.table_of(&keepsake.name, &file.path);
        survey.line_of(keepsake.name.to_string(), &file.path, difference.map_err(Failure::from), &table)
    };
    contents.iter().map(line).collect()
}

fn contents(keepsake: &Keepsake, value: &Value) -> Vec<(File, Zeroizing<String>)> {
    let file = |path: &Path, mode| File {
        name: keepsake.name.clone(),
        path: path.to_owned(),
        content: Content::Text(String::new()),
        needs: Vec::new(),
        owner: Owner::default(),
        mode: Mode(mode),
        // What lies in our own state is no one else's.
        replace: keepsake.replace || matches!(value, Value::Text(_)),
        deeds: Vec::new(),
        quiet: None,
    };
    let secret = (file(&keepsake.path, 0o600), line(value));
    let public = match (&keepsake.form, value) {
        (Form::Pair { public, .. }, Value::Pair(key)) => {
            Some((file(public, 0o644), Zeroizing::new(pem_block("PUBLIC KEY", &key.public()))))
        }
        _ => None,
    };
    std::iter::once(secret).chain(public).collect()
}

fn line(value: &Value) -> Zeroizing<String> {
    let newline = if value.text().ends_with('\n') { "" } else { "\n" };
    Zeroizing::new([value.text(), newline].concat())
}

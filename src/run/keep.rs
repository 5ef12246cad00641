//! Keepsakes: placed where they belong, made if they never were, never made twice.

use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::lines::file_line;
use super::survey::Survey;
use super::{Run, World};
use crate::certificate::Owner;
use crate::disk;
use crate::file::{Content, File};
use crate::hooks;
use crate::keepsake::{self, Keepsake, Next, Origin, There};
use crate::key::{Key, pem_block};
use crate::report::FileLine;
use crate::setting::{Mode, Secret, chain};

impl Run<'_> {
    /// Brings each keepsake to its place; two lines each, for the private key and its public half.
    pub(super) fn keepsakes(&self, survey: &Survey) -> Vec<FileLine> {
        survey.node.keepsakes.iter().flat_map(|keepsake| self.keep(survey, keepsake)).collect()
    }

    fn keep(&self, survey: &Survey, keepsake: &Keepsake) -> [FileLine; 2] {
        let mut lines = lines(self.world, keepsake);
        let key = match self.key(keepsake) {
            Ok(key) => key,
            Err(failure) => {
                warn!(keepsake = %keepsake.name, "{}", chain(&failure));
                lines[0].trouble = Some(failure.trouble());
                return lines;
            }
        };
        for ((file, content), line) in contents(keepsake, &key).iter().zip(&mut lines) {
            match disk::put(self.root(), file, content.as_bytes(), survey.now).map_err(Failure::from) {
                Ok(changed) => line.changed = changed,
                Err(failure) => line.trouble = Some(failure.trouble()),
            }
            if line.changed {
                info!(path = %file.path.display(), "key file written");
            }
        }
        lines
    }

    fn key(&self, keepsake: &Keepsake) -> Result<Arc<Key>, Failure> {
        let state = state(keepsake);
        let given = match &keepsake.origin {
            Origin::Given(source) => {
                Some(disk::secret(self.root(), source, |argv| hooks::output(argv, self.stop))?)
            }
            Origin::Made | Origin::Elsewhere(_) => None,
        };
        let placed = disk::read_key(self.root(), &keepsake.path)?;
        let made = disk::read_state(self.root(), &state)?;
        let there = There {
            placed: placed.as_ref().map(|text| text.as_str()),
            made: made.as_ref().map(|text| text.as_str()),
            given: given.as_ref().map(Secret::expose),
        };
        match keepsake::decide(keepsake, there).map_err(Failure::Keepsake)? {
            Next::Place(key) => Ok(key),
            Next::Make => {
                let key = Key::generate(keepsake.kind)?;
                // In our own state first: should it get lost at its place, it comes back instead of another.
                disk::keep_state(self.root(), &state, key.pem().as_bytes())?;
                info!(keepsake = %keepsake.name, "made; the other hosts of the control plane need a copy of {}", keepsake.path.display());
                Ok(Arc::new(key))
            }
        }
    }
}

/// What would be done, without asking the operator's secret.
pub(super) fn lines(world: &World, keepsake: &Keepsake) -> [FileLine; 2] {
    let placed = disk::read_key(&world.root, &keepsake.path).map_err(Failure::from);
    let key = placed.as_ref().ok().and_then(|text| Key::parse(text.as_deref()?).ok());
    let differences = match (placed, key) {
        (Err(failure), _) => [Err(failure), Ok(None)],
        (Ok(None), _) => [Ok(Some(disk::ABSENT.to_owned())), Ok(Some(disk::ABSENT.to_owned()))],
        (Ok(Some(_)), None) => {
            [Err(Failure::Keepsake(keepsake::Unkept::Damaged(keepsake.path.clone()))), Ok(None)]
        }
        (Ok(Some(_)), Some(key)) => contents(keepsake, &key).map(|(file, content)| {
            disk::differs(&world.root, &file, content.as_bytes()).map_err(Failure::from)
        }),
    };
    let [private, public] = differences;
    let line = |path: &Path, difference| file_line(keepsake.name.to_string(), path, difference);
    [line(&keepsake.path, private), line(&keepsake.public, public)]
}

fn contents(keepsake: &Keepsake, key: &Key) -> [(File, Zeroizing<String>); 2] {
    let newline = if key.pem().ends_with('\n') { "" } else { "\n" };
    let file = |path: &Path, mode| File {
        name: keepsake.name.clone(),
        path: path.to_owned(),
        content: Content::Text(String::new()),
        needs: Vec::new(),
        owner: Owner::default(),
        mode: Mode(mode),
        replace: keepsake.replace,
        deeds: Vec::new(),
    };
    [
        (file(&keepsake.path, 0o600), Zeroizing::new([key.pem(), newline].concat())),
        (file(&keepsake.public, 0o644), Zeroizing::new(pem_block("PUBLIC KEY", &key.public()))),
    ]
}

fn state(keepsake: &Keepsake) -> String {
    format!("keepsakes/{}.pem", keepsake.name)
}

//! Secrets for one use, once they have been of use: when a certificate of this host is enough to log in with, what
//! was unwrapped goes, and so does the file that it came from, where the configuration says so.

use std::collections::BTreeMap;
use std::path::Path;

use tracing::info;

use super::Run;
use super::failure::Failure;
use super::signers::{opened_state, unwrapped_state};
use super::survey::Survey;
use crate::ca::{self, Ca};
use crate::disk;
use crate::report::OwedLine;
use crate::setting::{At, Name, SecretSource};

impl Run<'_> {
    /// Erases what is not needed any more of the CAs that this run has spoken with: what failed, and where a
    /// secret stands still.
    pub(super) async fn retire_secrets(&self, survey: &Survey) -> (Vec<OwedLine>, Vec<String>) {
        let (mut failed, mut notes) = (Vec::new(), Vec::new());
        for (name, opened) in &self.cas {
            let (Ok(ca), Some(settings)) = (opened, survey.config.cas.get(name)) else { continue };
            match self.retire(survey, name, ca, settings).await {
                Ok(stands) => notes.extend(stands),
                Err(why) => failed.push(why.owed(&format!("to erase the used secret of CA {name}"))),
            }
        }
        (failed, notes)
    }

    async fn retire(
        &self,
        survey: &Survey,
        name: &Name,
        ca: &Ca,
        settings: &ca::Settings,
    ) -> Result<Vec<String>, Failure> {
        if !self.has_leftover(name, settings)? || !ca.needs_no_secret(&held(survey, settings)).await {
            return Ok(Vec::new());
        }
        let wiped = settings.wipes().into_iter().map(|path| self.wipe(name, path));
        let notes = wiped.collect::<Result<Vec<_>, _>>()?;
        let state = unwrapped_state(name);
        let kept = disk::read_state(self.root(), &state)?.unwrap_or_default();
        if let Some(token) = kept.lines().next().filter(|token| !token.is_empty()) {
            disk::keep_state(self.root(), &opened_state(name), token.as_bytes())?;
        }
        disk::wipe(self.root(), &Path::new(disk::STATE).join(state))?;
        info!(ca = %name, "CA {name}: the secret of the first login is erased; certificates do from now on");
        Ok(notes.into_iter().flatten().collect())
    }

    /// A secret can go only where another way in is configured.
    fn has_leftover(&self, name: &Name, settings: &ca::Settings) -> Result<bool, Failure> {
        if settings.logs_in_with().is_empty() {
            return Ok(false);
        }
        let files: Vec<_> = settings.wipes().into_iter().map(Path::to_owned).collect();
        let there = !disk::present(self.root(), &files)?.is_empty();
        Ok(there || disk::read_state(self.root(), &unwrapped_state(name))?.is_some())
    }

    fn wipe(&self, name: &Name, path: &Path) -> Result<Option<String>, Failure> {
        let secret = disk::secret(self.root(), &SecretSource::File(path.to_owned()), |_| Err(String::new()));
        let copies = secret.ok().map(|secret| disk::copies(self.root(), &secret)).unwrap_or_default();
        if !disk::wipe(self.root(), path)? || copies.is_empty() {
            return Ok(None);
        }
        let places: Vec<_> = copies.iter().map(|path| path.display().to_string()).collect();
        Ok(Some(format!(
            "CA {name}: the secret of {} is erased there, and stands still in {}, where cloud-init put it: erase it there too",
            path.display(),
            places.join(", ")
        )))
    }
}

fn held(survey: &Survey, settings: &ca::Settings) -> BTreeMap<Name, crate::bundle::Bundle> {
    let names = settings.logs_in_with().into_iter().map(At::get_ref);
    names.filter_map(|name| Some((name.clone(), survey.bundle(name)?.clone()))).collect()
}

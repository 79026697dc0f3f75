//! `mig send --effort auto`: the session that a migration consists of, its efforts chosen block by block as the link asks for.

use anyhow::Result;
use mig_engine::{Cancel, Effort};

use super::sending::Sending;
use super::sink::compare_files;
use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::link::{Link, Rate};
use crate::measure::{Cost, timed};
use crate::references::References;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Auto(Sending);

impl Auto {
    /// Opens what it sends with; none of this is timed.
    ///
    /// # Errors
    ///
    /// References can't be opened.
    pub(crate) fn new(subject: &Subject, references: &References, cancel: &Cancel) -> Result<Self> {
        Sending::new(subject, &Effort::AVAILABLE, references, cancel).map(Auto)
    }
}

impl Contender for Auto {
    fn key(&self) -> Key {
        Key::Auto { references: self.0.has_references() }
    }

    fn about(&self) -> String {
        "the session of mig send, efforts chosen as the link asks for; references opened and indexed beforehand".into()
    }

    /// Over a link of 1 Gbit/s, so that it has something to choose; the bytes depend on that and on the machine.
    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let who = self.key().to_string();
        let file = subject.scratch_file()?;
        let link = Link::new("1 Gbit".parse::<Rate>().map_err(anyhow::Error::msg)?);
        let ((), cost) = timed(|| self.0.send(subject, &link, Some(&file)))?;
        file.sync_all()?;
        let (applied, rebuilt) = self.0.session().undo(subject, &file)?;
        if applied.pages != subject.image().page_count() {
            let what = format!("{} of {} pages arrived", applied.pages, subject.image().page_count());
            return Err(Problem::Wrong { who, what }.into());
        }
        compare_files(&who, rebuilt, subject.image())?;
        Ok(Verified { bytes: link.written(), cost })
    }

    /// As over a link that is never the limit.
    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        let link = Link::new("1000 Gbit".parse::<Rate>().map_err(anyhow::Error::msg)?);
        let ((), cost) = timed(|| self.0.send(subject, &link, None))?;
        Ok(cost)
    }

    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        let ((), cost) = timed(|| self.0.send(subject, link, None))?;
        Ok(Some(cost))
    }
}

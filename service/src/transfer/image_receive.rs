//! An image file that comes in: verified, fsynced, and only then given its name.

use std::path::PathBuf;
use std::sync::Arc;

use mig_engine::{Cancel, Reference};

use super::partial::{NoPartial, Partial};
use super::receiving::{Receiving, why};
use crate::session::{Admitted, Incoming};
use crate::wire::Code;
use crate::wire::hello::{Complete, Content, Proposal, Refusal};

/// A file that is to be received.
#[derive(Clone, Debug)]
pub struct ImageTarget {
    /// Where it is to be.
    pub path: PathBuf,
    /// Whether it replaces what is there.
    pub force: bool,
}

impl ImageTarget {
    /// Admits a migration into this file. What is left of an earlier try is looked through, on the current rayon pool.
    ///
    /// # Errors
    ///
    /// The refusal for the sender.
    pub fn admit(
        &self,
        proposal: &Proposal,
        references: Vec<Option<Reference>>,
        receiving: &Receiving,
        cancel: Cancel,
    ) -> Result<Admitted, Refusal> {
        if proposal.kind != Content::Image {
            return Err(Refusal::new(Code::Unexpected, "this receiver waits for a memory image file"));
        }
        receiving.check(proposal)?;
        if !self.force && self.path.symlink_metadata().is_ok() {
            let message = "the destination exists already (--force on its side replaces it)";
            return Err(Refusal::new(Code::Exists, message));
        }
        let partial = Partial::open(&self.path).map_err(|error| match error {
            NoPartial::Busy => Refusal::new(Code::Busy, "another migration writes to that destination"),
            NoPartial::Io(error) => {
                Refusal::new(Code::Storage, format!("the destination can't be written: {error}"))
            }
        })?;
        let have = receiving.pool()?.install(|| partial.have(receiving.level)).unwrap_or_else(|error| {
            log::warn!("{}: what is there from an earlier try can't be read: {error}", self.path.display());
            None
        });
        let (target, how) = (self.clone(), receiving.clone());
        let job = Box::new(move |session: &Arc<Incoming>, references| {
            target.run(session, references, partial, &how)
        });
        Ok(receiving.admit(references, have, cancel, job))
    }

    fn run(
        &self,
        session: &Arc<Incoming>,
        references: Vec<Option<Reference>>,
        partial: Partial,
        how: &Receiving,
    ) -> Result<Complete, Refusal> {
        let filled = Self::fill(session, references, &partial, how).and_then(|complete| {
            let ended = || Refusal::new(Code::Internal, "it ended before the file could be put in place");
            if session.settle() { Ok(complete) } else { Err(ended()) }
        });
        match filled {
            Ok(complete) => match partial.finish(self.force) {
                Ok(()) => Ok(complete),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    Err(Refusal::new(Code::Exists, "the destination has come into being meanwhile"))
                }
                Err(error) => {
                    Err(Refusal::new(Code::Storage, format!("the file can't be finished: {error}")))
                }
            },
            Err(refusal) => {
                if session.outcome().is_none() {
                    session.finish(crate::session::Outcome::Failed(refusal.clone()));
                }
                // It stays where going on later makes sense.
                if session.may_go_on_later() && partial.is_begun() {
                    log::info!("{}: what was received is kept for another try", self.path.display());
                } else {
                    partial.remove();
                }
                Err(refusal)
            }
        }
    }

    /// Receives all of it into the partial file.
    fn fill(
        session: &Arc<Incoming>,
        references: Vec<Option<Reference>>,
        partial: &Partial,
        how: &Receiving,
    ) -> Result<Complete, Refusal> {
        let (header, references) = how.header(session, references)?;
        let failed = |error| why(session, &error);
        let head = mig_engine::live::header_frame(&header);
        let store = partial.start(&head, &header.layout).map_err(failed)?;
        let applied = how
            .pool()?
            .install(|| how.decoder(&header, &references, session).apply(&store, session.as_ref()));
        let applied = applied.map_err(failed)?;
        if applied.distinct != header.layout.page_count() {
            let (have, all) = (applied.distinct, header.layout.page_count());
            return Err(Refusal::new(Code::Damaged, format!("only {have} of {all} pages were sent")));
        }
        let (bytes, _) = session.progress();
        Ok(Complete { pages: applied.pages, bytes, message: String::new() })
    }
}

//! What receiving an image and receiving a running guest have in common.

use mig_engine::live::{Arrivals, Decoder, read_header};
use mig_engine::{
    Cancel, DecodeError, DecodeLimits, Effort, Header, KernelCache, Level, Reference, ReferenceNeed, Resolved,
};

use crate::session::{Admitted, Incoming, Job, Limits, Outcome};
use crate::wire::Code;
use crate::wire::hello::{Proposal, Refusal};

/// How to receive.
#[derive(Clone, Debug)]
pub struct Receiving {
    /// Threads that decode.
    pub threads: usize,
    /// What a session may use.
    pub limits: Limits,
    /// Bytes of frames that may be held unverified.
    pub window: u64,
    /// The most pages of a block.
    pub block_pages: u64,
    /// The largest guest, in pages.
    pub max_pages: u64,
    /// Where kernel images are kept that were made from disks.
    pub kernels: Option<KernelCache>,
    /// The SIMD level.
    pub level: Level,
}

impl Receiving {
    /// Admits a migration whose work is `job`.
    pub(super) fn admit(
        &self,
        references: Vec<Option<Reference>>,
        have: Option<mig_engine::live::Have>,
        cancel: Cancel,
        job: Job,
    ) -> Admitted {
        Admitted {
            references,
            have,
            block_pages: self.block_pages,
            window: self.window,
            efforts: Effort::AVAILABLE.iter().map(|effort| effort.name().to_owned()).collect(),
            limits: self.limits,
            cancel,
            job,
        }
    }

    /// The threads that one migration's pages are read and decoded with.
    pub(super) fn pool(&self) -> Result<rayon::ThreadPool, Refusal> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        pool.map_err(|error| Refusal::new(Code::Internal, format!("cannot start threads: {error}")))
    }

    /// Checks what a sender proposes against the limits.
    pub(super) fn check(&self, proposal: &Proposal) -> Result<(), Refusal> {
        if proposal.pages > self.max_pages {
            return Err(self.too_large(proposal.pages));
        }
        Ok(())
    }

    fn too_large(&self, pages: u64) -> Refusal {
        let message =
            format!("a guest of {} MiB; this receiver takes up to {} MiB", pages >> 8, self.max_pages >> 8);
        Refusal::new(Code::TooLarge, message)
    }

    /// What rebuilds a session's pages.
    pub(super) fn decoder<'a>(
        &'a self,
        header: &'a Header,
        references: &'a [Option<Reference>],
        session: &'a Incoming,
    ) -> Decoder<'a> {
        Decoder::new(header, references, self.level, session.cancel()).kernels(self.kernels.as_ref())
    }

    /// Reads the stream's header, and puts the references in its order.
    pub(super) fn header(
        &self,
        session: &Incoming,
        references: Vec<Option<Reference>>,
    ) -> Result<(Header, Vec<Option<Reference>>), Refusal> {
        let mut limits = DecodeLimits::default();
        limits.block_pages = self.block_pages;
        let (mut arrival, mut attempt) = (session.first().map_err(|error| why(session, &error))?, 0);
        let header = loop {
            match arrival.frame.and_then(|frame| read_header(&frame, limits)) {
                Ok(header) => break header,
                Err(error) => {
                    attempt += 1;
                    arrival = session.again(0, attempt, error).map_err(|error| why(session, &error))?;
                }
            }
        };
        if header.layout.page_count() > self.max_pages {
            return Err(self.too_large(header.layout.page_count()));
        }
        let mut references = references;
        let mut at_hand = Vec::new();
        for need in &header.references {
            let fits = |reference: &Option<Reference>| {
                reference.as_ref().is_some_and(|reference| is(reference.need(), need))
            };
            // Only those that were admitted; the header can't bring others in.
            at_hand.push(references.iter().position(fits).and_then(|place| references[place].take()));
        }
        let mut resolved = Resolved { references: at_hand, ..Resolved::default() };
        resolved.derive(&header, self.kernels.as_ref());
        session.verified(0, 0);
        Ok((header, resolved.references))
    }
}

/// Whether they are the same. What the sender takes it for only says how it is addressed.
fn is(one: &ReferenceNeed, other: &ReferenceNeed) -> bool {
    (one.identity, one.blocks) == (other.identity, other.blocks)
}

/// Why a session's work stopped, in the words that the other end is told.
pub(super) fn why(session: &Incoming, error: &DecodeError) -> Refusal {
    match (session.outcome(), error) {
        // Nothing came any more because it was over already.
        (Some(Outcome::Failed(refusal)), _) => refusal,
        (Some(Outcome::Cancelled | Outcome::CancelledThere(_)), _) | (_, DecodeError::Cancelled) => {
            Refusal::new(Code::Internal, "cancelled")
        }
        (_, DecodeError::Io { .. } | DecodeError::Layout(_)) => {
            Refusal::new(Code::Storage, error.to_string())
        }
        (_, DecodeError::MissingReference { .. } | DecodeError::Reference { .. }) => {
            Refusal::new(Code::Reference, error.to_string())
        }
        _ => Refusal::new(Code::Damaged, error.to_string()),
    }
}

/// For each reference that a sender offers, the one of ours that it is.
pub fn matching(proposal: &Proposal, ours: Vec<Reference>) -> Vec<Option<Reference>> {
    let mut ours: Vec<Option<Reference>> = ours.into_iter().map(Some).collect();
    let find = |offered: &crate::wire::hello::Offered| {
        let fits = |reference: &Option<Reference>| {
            reference.as_ref().is_some_and(|reference| offered.fits(reference.need()))
        };
        ours.iter().position(fits).and_then(|place| ours[place].take())
    };
    proposal.references.iter().map(find).collect()
}

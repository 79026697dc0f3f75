//! What happens during a migration, for whoever watches: a progress bar, `--json`, the daemon's API.

use std::time::Duration;

use mig_engine::{BlockStats, Class, Effort, Settled};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::failure::Failure;
use crate::session::Incoming;

/// Names of the page kinds, in the format's order.
pub const KINDS: [&str; Settled::KINDS] = ["zero", "uniform", "duplicate", "reference", "residual", "later"];

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The two hosts have agreed on a session.
    Connected {
        /// The other host's name and address.
        peer: String,
        /// References that both have.
        references: Vec<String>,
        /// References that only the sender has, so that they are not used.
        unused: Vec<String>,
        /// Efforts that may be used.
        efforts: Vec<String>,
    },
    /// How far it is.
    Progress(ProgressEvent),
    /// The link broke; trying to connect again.
    Broken {
        /// Why.
        message: String,
    },
    /// The link is there again.
    Resumed,
    /// The receiver could not verify a frame and asked for it again.
    Again {
        /// The frame.
        sequence: u64,
        /// What was wrong with it.
        reason: String,
    },
    /// A live round ended.
    Round {
        /// Its number, from 0.
        round: u64,
        /// Pages that were dirty at its start.
        dirty: u64,
        /// Pages that were sent.
        sent: u64,
        /// Pages that turned out to be as they were.
        unchanged: u64,
        /// Pages that keep changing and wait for the end.
        held: u64,
        /// Bytes of its frames.
        bytes: u64,
        /// Estimated downtime if the guest were stopped now, at the present rate.
        downtime_ms: u64,
    },
    /// Something that the user should know.
    Warning {
        /// In words.
        message: String,
    },
    /// It is over, and everything is verified and in place.
    Done(Box<Summary>),
    /// It waits: for its turn, for QEMU, or for a destination that is busy.
    Waiting {
        /// For what.
        reason: String,
    },
    /// It is over, and the source is as it was. Said by `migd` only; from `mig` it is the exit code.
    Failed {
        /// Why, for programs.
        failure: Failure,
        /// Why, for people.
        message: String,
    },
}

/// How far a migration is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressEvent {
    /// Pages that are verified at the destination.
    pub pages: u64,
    /// Pages in all; 0 where that is not known.
    pub total_pages: u64,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
    /// Bytes a second, lately.
    pub rate: f64,
    /// The effort in use.
    pub effort: String,
    /// Since the start.
    pub seconds: f64,
    /// Until the end, as it looks now.
    pub seconds_left: Option<f64>,
}

impl ProgressEvent {
    /// The same, with the time left if it goes on as it has gone so far.
    #[must_use]
    pub fn estimated(self) -> Self {
        let Self { pages, total_pages, seconds, .. } = self;
        let seconds_left = (pages > 0 && total_pages >= pages)
            .then(|| (total_pages - pages) as f64 * seconds / pages as f64);
        ProgressEvent { seconds_left, ..self }
    }

    /// What a receiver sees; `before` are the bytes that had come `passed` seconds earlier.
    pub fn received(session: &Incoming, before: u64, passed: f64) -> Self {
        let (wire_bytes, pages) = session.progress();
        ProgressEvent {
            pages,
            total_pages: session.proposal.pages,
            wire_bytes,
            rate: wire_bytes.saturating_sub(before) as f64 / passed,
            effort: "as the sender chooses".into(),
            seconds: session.elapsed().as_secs_f64(),
            seconds_left: None,
        }
        .estimated()
    }
}

/// What a migration came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Pages that were sent, those that were sent again counted again.
    pub pages: u64,
    /// Pages by kind.
    pub kinds: Kinds,
    /// Bytes of frames.
    pub frame_bytes: u64,
    /// Bytes on the wire, segments' heads and frames that were sent twice included; TLS and TCP are not.
    pub wire_bytes: u64,
    /// Bytes of residual pages by class.
    pub classes: Vec<ClassShare>,
    /// Bytes of settled pages and of what describes all others.
    pub settled_bytes: u64,
    /// Bytes of long-match lists.
    pub match_bytes: u64,
    /// Bytes of all that is not memory.
    pub other_bytes: u64,
    /// Pages that the destination had from an earlier try.
    pub kept_pages: u64,
    /// Blocks by effort.
    pub efforts: Vec<EffortShare>,
    /// Frames that were asked for again.
    pub again: u32,
    /// Pages that the destination verified.
    pub verified: u64,
    /// From the first connection to the destination's word that all is in place.
    pub seconds: f64,
    /// What the destination had to say.
    pub message: String,
}

/// Pages by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "KINDS has the names, and docs/format.md what they mean")]
pub struct Kinds {
    pub zero: u64,
    pub uniform: u64,
    pub duplicate: u64,
    pub reference: u64,
    pub residual: u64,
}

impl Kinds {
    /// With their names, in the format's order.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip([self.zero, self.uniform, self.duplicate, self.reference, self.residual])
    }
}

/// One class of residual pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassShare {
    /// Its name.
    pub class: String,
    /// Pages.
    pub pages: u64,
    /// Their coded bytes.
    pub bytes: u64,
}

/// One effort's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EffortShare {
    /// Its name.
    pub effort: String,
    /// Blocks.
    pub blocks: u64,
    /// Residual pages.
    pub residual: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Is told what happens, from any thread.
pub type OnEvent<'e> = &'e (dyn Fn(&Event) + Sync);

/// Adds up what is sent.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    blocks: BlockStats,
    frame_bytes: u64,
    block_bytes: u64,
    kept_pages: u64,
    efforts: Vec<(Effort, EffortShare)>,
}

impl Tally {
    /// Takes note of a frame.
    pub fn add(&mut self, frame: &mig_engine::live::OutFrame<'_>) {
        self.frame_bytes += frame.len();
        let (Some(stats), Some(pages)) = (frame.stats(), frame.pages()) else { return };
        self.block_bytes += frame.len();
        if frame.is_kept() {
            self.kept_pages += pages.len();
            return;
        }
        self.blocks.add(stats);
        let effort = frame.effort();
        let place = match self.efforts.iter().position(|(other, _)| *other == effort) {
            Some(place) => place,
            None => {
                let share = EffortShare { effort: effort.name().into(), ..EffortShare::default() };
                self.efforts.push((effort, share));
                self.efforts.len() - 1
            }
        };
        let share = &mut self.efforts[place].1;
        share.blocks += 1;
        share.residual += stats.pages[Settled::Residual.kind()];
        share.bytes += frame.len();
    }

    /// All of it, with what the session knows.
    pub fn summary(&self, wire_bytes: u64, again: u32, seconds: Duration) -> Summary {
        let [zero, uniform, duplicate, reference, residual, _later] = self.blocks.pages;
        let class = |class: Class| ClassShare {
            class: class.name().into(),
            pages: self.blocks.class_pages[class as usize],
            bytes: self.blocks.class_bytes[class as usize],
        };
        let mut efforts = self.efforts.clone();
        efforts.sort_by_key(|(effort, _)| *effort);
        Summary {
            pages: zero + uniform + duplicate + reference + residual + self.kept_pages,
            kinds: Kinds { zero, uniform, duplicate, reference, residual },
            frame_bytes: self.frame_bytes,
            wire_bytes,
            classes: Class::ALL.into_iter().map(class).filter(|share| share.pages > 0).collect(),
            settled_bytes: self.blocks.settled_bytes + self.blocks.residual_meta_bytes,
            match_bytes: self.blocks.match_bytes,
            other_bytes: self.frame_bytes - self.block_bytes,
            kept_pages: self.kept_pages,
            efforts: efforts.into_iter().map(|(_, share)| share).collect(),
            again,
            seconds: seconds.as_secs_f64(),
            ..Summary::default()
        }
    }
}

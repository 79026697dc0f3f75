//! A migration's session over its connections: frames out ([`Outbox`]), frames in ([`Inbox`]), what becomes of both when
//! connections break, and how the end is agreed upon.

mod inbox;
mod incoming;
mod link;
mod outbox;
mod sender;
mod sessions;

pub use inbox::Inbox;
pub use incoming::{Admitted, Host, Incoming, Job, Open, Outcome, meter_interval};
pub use link::{Link, LinkView};
pub use outbox::{Outbox, Sent, Ticket};
pub use sender::{Limits, Recode, Sender, Watch, dial_session};
pub use sessions::Sessions;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock that a panic elsewhere does not spoil: what it guards is always whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! `mig send FILE`: an image file to another host, where it becomes the same file.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use mig_engine::guest::Guest;
use mig_engine::live::{self, Encoder, Introspection, LateGuest, OutFrame, Setup};
use mig_engine::{Effort, EncodeError, Header, MemoryImage, Reference};

use super::sending::{Account, EffortChoice, Sending, Session, Watcher, What, tell_progress};
use crate::events::{Event, OnEvent, Summary};
use crate::problem::Problem;
use crate::wire::hello::{Complete, Content};
use crate::wire::{Code, WireError};

/// Sends an image. `references` are what the destination may have; those that it has are used.
///
/// Runs on the current rayon pool.
///
/// # Errors
///
/// [`WireError`] for what goes wrong between the hosts, [`EncodeError`] for what goes wrong here, and
/// [`Problem::Unconfirmed`] if all was sent and the destination never said that it has it.
pub fn send_image(
    image: &MemoryImage,
    mut references: Vec<Reference>,
    sending: &Sending<'_>,
    on: OnEvent<'_>,
) -> Result<Summary> {
    let start = Instant::now();
    let what = What { kind: Content::Image, pages: image.page_count(), bytes: image.file_len() };
    loop {
        let opened = sending.open(&what, references, on);
        let (opened, agreed, others) =
            opened.with_context(|| format!("cannot reach {}", sending.target.address))?;
        // What only the sender has is of no use; what the guest says of itself may be.
        let kernels = sending.kernels.as_ref();
        let guest = match opened.top {
            Effort::Store => ReadGuest { references: agreed.clone(), ..ReadGuest::default() },
            // Over a link that may be faster than we are, only once that pays.
            _ if opened.late_guest && sending.effort == EffortChoice::Auto => {
                let late = Some(LateGuest::new(kernels.cloned()));
                ReadGuest { references: agreed.clone(), guest: None, late }
            }
            _ => {
                let (guest, references) = live::read_image(image, &agreed, kernels, &sending.cancel)?;
                ReadGuest { references, guest, late: None }
            }
        };
        match send(image, &guest, opened, sending, start, on) {
            Ok(summary) => {
                on(&Event::Done(Box::new(summary.clone())));
                return Ok(summary);
            }
            // What it has is looked through, and the rest is sent.
            Err(Failed::Wire(WireError::Refused { code: Code::UnknownSession, .. })) => {
                let message = "the receiver was started anew: what it has is not sent again".into();
                on(&Event::Warning { message });
                references = agreed.into_iter().chain(others).collect();
            }
            Err(Failed::Wire(error)) => return Err(error.into()),
            Err(Failed::Here(error)) => return Err(error.into()),
            Err(Failed::Unconfirmed(error)) => {
                let text = format!(
                    "all was sent, but the receiver did not confirm it: look there whether it is complete ({error})"
                );
                return Err(Problem::Unconfirmed(text).into());
            }
        }
    }
}

/// What the guest says of itself, or will; and the references, with the kernel that it runs if that is known already.
#[derive(Default)]
struct ReadGuest {
    references: Vec<Reference>,
    guest: Option<Guest>,
    late: Option<LateGuest>,
}

impl ReadGuest {
    fn introspection(&self) -> Introspection<'_> {
        match &self.late {
            Some(late) => Introspection::Later(late),
            None => self.guest.as_ref().into(),
        }
    }
}

/// Why a session ended: for a reason of this host's, or between the two.
enum Failed {
    Here(EncodeError),
    Wire(WireError),
    /// The link broke after everything was handed to it.
    Unconfirmed(WireError),
}

/// One session.
fn send<'f>(
    image: &'f MemoryImage,
    guest: &'f ReadGuest,
    opened: Session<'f>,
    sending: &'f Sending<'f>,
    start: Instant,
    on: OnEvent<'_>,
) -> Result<Summary, Failed> {
    let sender = opened.sender;
    let (references, introspection) = (&guest.references[..], guest.introspection());
    let needs = references.iter().map(|reference| reference.need().clone()).collect();
    let header = Header::new(image.layout().clone(), opened.top, opened.block_pages, needs);
    let setup = || Setup {
        header: header.clone(),
        references,
        introspection,
        worker: sending.worker,
        beside: sending.beside,
        level: sending.level,
        top: opened.top,
        techniques: opened.techniques,
        cancel: sending.cancel.clone(),
    };
    let again = setup();
    let recode = |frame: &OutFrame<'f>| {
        let pages = frame.pages().cloned().ok_or(EncodeError::PageSet("it is empty"))?;
        Ok(live::alone(&again, image, 0, pages, frame.sequence())?.into_owned())
    };
    let account = Account::default();
    let (over, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let watcher = Watcher { on, returned: &|_| {} };
    thread::scope(|scope| {
        let running = scope.spawn(|| sender.run(opened.control, &recode, &watcher));
        let teller = scope.spawn(|| tell_progress(&sender, &account, image.page_count(), start, on, &over));
        let coded = Encoder::new(setup()).and_then(|mut encoder| {
            let mut sink = |frame| {
                account.add(&frame);
                sender.push(frame)
            };
            sink(encoder.header())?;
            encoder.image(image, opened.have.as_ref(), &|next| sender.choose(next), &mut sink)?;
            sink(encoder.end())?;
            ended.store(true, Ordering::Relaxed);
            Ok(())
        });
        // That nothing more was taken has a reason, which the session knows.
        let coded = coded.or_else(|error| match error {
            EncodeError::Cancelled => Ok(()),
            error => Err(error),
        });
        if let Err(error) = &coded {
            sender.fail(Code::Internal, &error.to_string());
        }
        let outcome = sender.wait();
        over.store(true, Ordering::Relaxed);
        teller.thread().unpark();
        let _ = running.join();
        coded.map_err(Failed::Here)?;
        match outcome {
            Ok(complete) => Ok(summary(&account, &sender, start, complete)),
            Err(error)
                if error.is_broken_link()
                    && ended.load(Ordering::Relaxed)
                    && sender.outbox().sent().last_is_out =>
            {
                Err(Failed::Unconfirmed(error))
            }
            Err(error) => Err(Failed::Wire(error)),
        }
    })
}

/// What a session came to.
pub(super) fn summary(
    account: &Account,
    sender: &crate::session::Sender<'_>,
    start: Instant,
    complete: Complete,
) -> Summary {
    let sent = sender.outbox().sent();
    let mut summary = account.tally().summary(sent.bytes, sender.asked_again(), start.elapsed());
    summary.verified = complete.pages;
    summary.message = complete.message;
    summary
}

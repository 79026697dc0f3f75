//! `mig send --qemu unix:PATH`: takes the migration stream of a running QEMU and brings it to another host.
//!
//! QEMU connects and writes, as to any destination. Its stream is read as fast as the link takes it, so QEMU sees the link's
//! rate in terms of its own memory and decides by that when to stop the guest. What comes back from the destination QEMU
//! (the return path) is written to the same socket. If anything goes wrong, the socket is closed: QEMU's migration
//! has failed, and the guest runs on.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::live::{self, FlatFile, LateGuest, OutFrame};
use mig_engine::qemu::{
    Coder, Coding, Events, Gather, Holding, Input, Out, Parser, RamBlock, Record, StreamError, Transcoder,
};
use mig_engine::{Effort, EncodeError, Header, MemoryImage, PageSet, Reference};

use super::sending::{Account, Sending, Session, Watcher, What, tell_progress};
use super::snapshot::Snapshot;
use crate::events::{Event, OnEvent, Summary};
use crate::local::Bound;
use crate::problem::Problem;
use crate::session::{Sender, lock};
use crate::wire::hello::{Complete, Content};
use crate::wire::{Code, WireError};

/// A stream that pauses this long is sent as far as it has come.
const PAUSE: Duration = Duration::from_millis(10);
/// How often a wait for QEMU looks whether the migration is over.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of captured pages that are kept until their blocks are verified.
const KEPT: usize = 64 << 20;
/// How long QEMU may take none of what comes back to it.
const RETURN: Duration = Duration::from_secs(10);

/// The source QEMU's end of a migration.
#[derive(Debug)]
pub struct QemuSource {
    /// QEMU's connection.
    pub socket: UnixStream,
    /// What was read from it already.
    pub start: Vec<u8>,
    /// Where the memory is kept for the way back.
    pub snapshot: Option<PathBuf>,
    /// Folder for a temporary copy of the guest's memory, where no snapshot is kept.
    pub scratch: PathBuf,
    /// Pages that may be held back because they keep changing.
    pub holding: Holding,
    /// Whether the guest is paused, so that its memory can be taken in faster than the link carries it: what waits is smaller when all is
    /// there, for what the guest says of itself. QEMU stops a guest that runs when it believes that the link carries the rest in no
    /// time; so this would stop it for long.
    pub paused: bool,
}

/// The stream, from QEMU's socket.
struct Socket<'s> {
    start: io::Cursor<Vec<u8>>,
    socket: UnixStream,
    timeout: Duration,
    over: &'s dyn Fn() -> bool,
    /// The last byte that came.
    last: &'s Mutex<Option<u8>>,
}

impl Input for Socket<'_> {
    fn read(&mut self, to: &mut [u8], wait: bool) -> io::Result<Option<usize>> {
        let read = self.start.read(to)?;
        if read > 0 {
            *lock(self.last) = to.get(read - 1).copied();
            return Ok(Some(read));
        }
        let timeout = if wait { LOOK } else { PAUSE };
        if self.timeout != timeout {
            self.socket.set_read_timeout(Some(timeout))?;
            self.timeout = timeout;
        }
        loop {
            match self.socket.read(to) {
                Ok(read) => {
                    if read > 0 {
                        *lock(self.last) = to.get(read - 1).copied();
                    }
                    return Ok(Some(read));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if (self.over)() {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    if !wait {
                        return Ok(None);
                    }
                }
                // QEMU went away in the middle: as if it had closed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Some(0)),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Notes whether the guest was stopped and all of its memory came.
struct Watched<'c, E> {
    inner: E,
    all_memory: &'c AtomicBool,
}

impl<E: Events> Events for Watched<'_, E> {
    type Error = E::Error;

    fn blocks(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), E::Error> {
        self.inner.blocks(machine, blocks)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), E::Error> {
        self.inner.bytes(bytes)
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), E::Error> {
        self.inner.record(record)
    }

    fn section_end(&mut self, last: bool) -> Result<(), E::Error> {
        if last {
            self.all_memory.store(true, Ordering::Relaxed);
        }
        self.inner.section_end(last)
    }

    fn idle(&mut self) -> Result<(), E::Error> {
        self.inner.idle()
    }

    fn opaque(&mut self, why: &str, cut: bool) -> Result<(), E::Error> {
        self.inner.opaque(why, cut)
    }
}

/// Captured pages whose blocks are not verified yet, for those that are asked for again.
#[derive(Debug, Default)]
struct Batches {
    list: VecDeque<Batch>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Batch {
    /// Sequences of its blocks.
    first: u64,
    last: u64,
    memory: Memory,
}

/// Where a batch's pages are.
#[derive(Clone, Debug)]
enum Memory {
    /// Pages of a round, and their bytes.
    Captured(u64, Arc<PageSet>, Arc<Vec<u8>>),
    /// All of the first round.
    Gathered(Arc<MemoryImage>),
}

impl Memory {
    /// Bytes that this keeps from being given back.
    fn len(&self) -> usize {
        match self {
            Memory::Captured(_, _, bytes) => bytes.len(),
            Memory::Gathered(_) => 0,
        }
    }
}

impl Batches {
    /// Takes one whose blocks come next.
    fn begin(&mut self, memory: Memory) {
        self.bytes += memory.len();
        self.list.push_back(Batch { first: u64::MAX, last: 0, memory });
    }

    /// Forgets batches whose blocks are all below `next`; all blocks of these have been made.
    fn forget(&mut self, next: u64) {
        while let Some(first) = self.list.pop_front_if(|first| first.last < next) {
            self.bytes -= first.memory.len();
        }
    }

    /// Whether so many bytes more can be kept. One batch always can; none while there is memory that it would be written to.
    fn has_room(&self, bytes: usize) -> bool {
        let is_gathered = self.list.iter().any(|batch| matches!(batch.memory, Memory::Gathered(_)));
        !is_gathered && (self.bytes + bytes <= KEPT || self.list.len() < 2)
    }
}

/// Migrates a running guest. Runs on the current rayon pool.
///
/// # Errors
///
/// As for [`send_image`](super::send_image); [`Problem::Unconfirmed`] means that the guest may run at the destination.
pub fn send_qemu(
    source: QemuSource,
    references: Vec<Reference>,
    sending: &Sending<'_>,
    on: OnEvent<'_>,
) -> Result<Summary> {
    let start = Instant::now();
    let what = What { kind: Content::Qemu, pages: 0, bytes: 0 };
    let opened = sending.open(&what, references, on);
    let (session, agreed, _) = opened.with_context(|| format!("cannot reach {}", sending.target.address))?;
    let snapshot = Snapshot::new(source.snapshot.clone(), &source.scratch)?;
    let past = snapshot.file()?;
    let (summary, memory) = run(source, &agreed, session, past, sending, start, on)?;
    match memory {
        Some(memory) if memory.is_complete() => snapshot.keep(memory, on),
        _ => {}
    }
    on(&Event::Done(Box::new(summary.clone())));
    Ok(summary)
}

fn run(
    source: QemuSource,
    references: &[Reference],
    session: Session<'static>,
    past: std::fs::File,
    sending: &Sending<'_>,
    start: Instant,
    on: OnEvent<'_>,
) -> Result<(Summary, Option<FlatFile>)> {
    let Session { sender, control, block_pages, top, techniques, late_guest, .. } = session;
    let socket = source.socket;
    socket.set_write_timeout(Some(RETURN)).context("cannot use QEMU's socket")?;
    let back = socket.try_clone().context("cannot use QEMU's socket")?;
    let batches = Mutex::new(Batches::default());
    let header: Mutex<Option<Header>> = Mutex::default();
    let Sending { worker, beside, level, .. } = *sending;
    let cancel = sending.cancel.clone();
    let guest = LateGuest::new(sending.kernels.clone());
    let can_wait = || sender.has_work();
    let guest = (late_guest && top != Effort::Store).then_some(&guest);
    let gather = (source.paused && guest.is_some()).then_some(Gather { can_wait: &can_wait });
    sender.gathers(gather.is_some());
    let coding =
        Coding { references, worker, beside, level, top, techniques, block_pages, guest, gather, cancel };
    let recode = |frame: &OutFrame<'static>| {
        let batch = lock(&batches)
            .list
            .iter()
            .find(|batch| (batch.first..=batch.last).contains(&frame.sequence()))
            .cloned();
        let (Some(batch), Some(pages)) = (batch, frame.pages().cloned()) else {
            return Err(EncodeError::PageSet("it is not at hand any more"));
        };
        let header = lock(&header).clone().ok_or(EncodeError::PageSet("there is no header yet"))?;
        let setup = coding.setup(header);
        match &batch.memory {
            Memory::Captured(round, all, bytes) => {
                live::alone_of_batch(&setup, *round, (all, bytes), pages, frame.sequence())
            }
            Memory::Gathered(image) => {
                Ok(live::alone(&setup, &**image, 0, pages, frame.sequence())?.into_owned())
            }
        }
    };
    let (account, over, sent_all) = (Account::default(), AtomicBool::new(false), AtomicBool::new(false));
    let total_pages = pages_of(&mig_engine::qemu::machine_of(&source.start).1);
    let given_back = |bytes: &[u8]| {
        if let Err(error) = (&back).write_all(bytes) {
            log::warn!("QEMU does not take what comes back from the destination: {error}");
        }
    };
    let watcher = Watcher { on, returned: &given_back };
    thread::scope(|scope| {
        let running = scope.spawn(|| sender.run(control, &recode, &watcher));
        let teller = scope.spawn(|| tell_progress(&sender, &account, total_pages, start, on, &over));
        let (all_memory, last) = (AtomicBool::new(false), Mutex::new(None));
        let choose = |next| sender.choose(next);
        let out = |event: Out<'_>| take(event, &sender, &account, &batches, &header, on);
        let coder = Coder::new(coding.clone(), &choose, past, out);
        let is_over = || sender.is_over();
        let input = Socket {
            start: io::Cursor::new(source.start),
            socket: socket.try_clone().context("cannot use QEMU's socket")?,
            timeout: Duration::ZERO,
            over: &is_over,
            last: &last,
        };
        let mut events = Watched { inner: Transcoder::live(coder, source.holding), all_memory: &all_memory };
        let parsed = Parser::new(input).run(&mut events);
        let coded = parsed.and_then(|()| {
            // An end in the middle is QEMU's way of saying that it was cancelled.
            let ends_well = matches!(*lock(&last), Some(0 | b'}')) && all_memory.load(Ordering::Relaxed);
            let coder = events.inner.finish()?;
            if !ends_well {
                sender.stop("the source QEMU ended its migration before it was complete");
                return Err(EncodeError::Cancelled.into());
            }
            let memory = coder.end()?;
            sent_all.store(true, Ordering::Relaxed);
            Ok(memory)
        });
        if let Err(error) = &coded
            && !matches!(error, StreamError::Encode(EncodeError::Cancelled))
            && !sender.is_over()
        {
            sender.fail(Code::Internal, &error.to_string());
        }
        let outcome = sender.wait();
        over.store(true, Ordering::Relaxed);
        teller.thread().unpark();
        // Whatever QEMU still waits for will not come.
        let _ = socket.shutdown(std::net::Shutdown::Both);
        let _ = running.join();
        finish(outcome, coded, &sender, &account, start, sent_all.into_inner())
    })
}

fn finish(
    outcome: Result<Complete, WireError>,
    coded: Result<Option<FlatFile>, StreamError>,
    sender: &Sender<'static>,
    account: &Account,
    start: Instant,
    sent_all: bool,
) -> Result<(Summary, Option<FlatFile>)> {
    match (outcome, coded) {
        (Ok(complete), Ok(memory)) => {
            Ok((super::image_send::summary(account, sender, start, complete), memory))
        }
        // The destination QEMU may have all of it already, whoever stopped the migration, and whyever.
        (Err(error), _)
            if (error.is_broken_link() || matches!(error, WireError::Cancelled | WireError::Stopped(_)))
                && sent_all
                && sender.outbox().sent().last_is_out =>
        {
            let text = format!(
                "all was sent, but the destination did not confirm it: look there whether the guest runs, \
                 before it is continued here ({error})"
            );
            Err(Problem::Unconfirmed(text).into())
        }
        (Err(error), Ok(_) | Err(StreamError::Encode(EncodeError::Cancelled))) => Err(error.into()),
        (Err(WireError::Failed { code: Code::Internal, .. }), Err(error)) => Err(error.into()),
        (Err(error), Err(_)) => Err(error.into()),
        (Ok(_), Err(error)) => Err(error.into()),
    }
}

/// Takes what becomes of the stream, in order.
fn take(
    event: Out<'_>,
    sender: &Sender<'static>,
    account: &Account,
    batches: &Mutex<Batches>,
    header: &Mutex<Option<Header>>,
    on: OnEvent<'_>,
) -> Result<(), EncodeError> {
    match event {
        Out::Header(made) => *lock(header) = Some(made.clone()),
        Out::Batch(round, pages, bytes) => {
            // What waits to be verified takes memory: so no more than that.
            loop {
                let mut batches = lock(batches);
                batches.forget(sender.outbox().sent().next);
                if batches.has_room(bytes.len()) {
                    batches.begin(Memory::Captured(round, pages.clone(), bytes.clone()));
                    break;
                }
                drop(batches);
                if sender.is_over() {
                    return Err(EncodeError::Cancelled);
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Out::Gathered(image) => {
            sender.gathers(false);
            lock(batches).begin(Memory::Gathered(image.clone()));
        }
        Out::Frame(frame) => {
            if frame.pages().is_some()
                && let Some(batch) = lock(batches).list.back_mut()
            {
                batch.first = batch.first.min(frame.sequence());
                batch.last = batch.last.max(frame.sequence());
            }
            account.add(&frame);
            sender.push(frame)?;
        }
        Out::Round(round, bytes) => {
            sender.gathers(false);
            let rate = sender.link().view().rate.unwrap_or(0.0);
            let page_bytes = bytes as f64 / round.sent.max(1) as f64;
            let pending = (round.held + round.records) as f64 * page_bytes;
            let downtime_ms = if rate > 0.0 { (pending / rate * 1000.0) as u64 } else { 0 };
            on(&Event::Round {
                round: round.round,
                dirty: round.records,
                sent: round.sent,
                unchanged: round.unchanged,
                held: round.held,
                bytes,
                downtime_ms,
            });
        }
        Out::Opaque(why) => {
            let message = format!("a part of the stream is carried as it is: {why}");
            on(&Event::Warning { message });
        }
    }
    Ok(())
}

/// Pages of all these blocks of RAM.
fn pages_of(blocks: &[RamBlock]) -> u64 {
    blocks.iter().map(|block| block.pages).sum()
}

/// The sizes that a memory image of this machine may have: all of its RAM, or only its main memory.
pub fn guest_sizes(start: &[u8]) -> Vec<u64> {
    let (_, blocks) = mig_engine::qemu::machine_of(start);
    let all = pages_of(&blocks);
    [Some(all), blocks.first().map(|block| block.pages)].into_iter().flatten().collect()
}

/// Waits for QEMU to connect to a socket, which is removed then; reads enough of its stream to see which machine it is of.
///
/// # Errors
///
/// What the system says; [`WireError::Cancelled`].
pub fn wait_for_qemu(bound: Bound, cancel: &mig_engine::Cancel) -> Result<(UnixStream, Vec<u8>)> {
    // Who connects and says nothing is not QEMU: somebody looks whether the socket is in use, say.
    loop {
        let (socket, start) = accept_qemu(&bound, cancel)?;
        if !start.is_empty() {
            return Ok((socket, start));
        }
    }
}

/// One connection, and the start of what comes over it.
fn accept_qemu(bound: &Bound, cancel: &mig_engine::Cancel) -> Result<(UnixStream, Vec<u8>)> {
    let socket = bound.accept_one(cancel)?;
    let mut start = Vec::new();
    socket.set_read_timeout(Some(LOOK)).context("cannot use QEMU's socket")?;
    // A stream that says nothing of its machine is carried all the same.
    let until = Instant::now() + Duration::from_secs(5);
    let mut buffer = vec![0; 1 << 16];
    while start.len() < 1 << 16 && Instant::now() < until && mig_engine::qemu::machine_of(&start).1.is_empty()
    {
        if cancel.is_cancelled() {
            return Err(WireError::Cancelled.into());
        }
        match (&socket).read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => start.extend_from_slice(&buffer[..read]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error).context("cannot read from QEMU"),
        }
    }
    Ok((socket, start))
}

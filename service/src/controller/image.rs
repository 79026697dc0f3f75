//! An image, all of which is there to be sent: its first blocks find out what the link is, and its guest is read once that pays.

use mig_engine::{Effort, PAGE_SIZE};

use super::{Coding, Controller, PAGES, Plan, TRUST};

/// Bytes of pages as they are that may be on their way over a link of which nothing is known; and how many times what went without
/// having to wait.
const FIRST_BYTES: u64 = 256 << 10;
const GROWTH: u64 = 4;
/// And one byte of so many that the image has: at first, and later. Of a small one there is little to lose, and less to gain.
const FIRST_OF: u64 = 512;
const LATER_OF: u64 = 64;
/// From this size on there is no such limit.
const LARGE: u64 = 256 << 20;
/// Pages of a block with which that goes on, and of the others meanwhile.
pub(super) const FIRST_PAGES: [u64; 2] = [4, 256];
/// Bytes of such a block are not supposed to be less than this share of its pages.
const SPARSEST: f64 = 0.125;
/// The share of residual bytes that is saved by what the guest says of itself, and processor time that it takes for each page: to find it,
/// and to settle all pages before any other is coded. Then, how long no residual page comes, since much of that is done by one processor.
const GUEST_SAVES: f64 = 0.1;
const GUEST_TAKES: f64 = 0.7e-6;
const GUEST_WAITS: f64 = 1.3e-6;
/// How many times what is needed meanwhile may wait for the link before the guest is read.
pub(super) const READY: f64 = 1.3;
/// Pages of an image from which on their residual share says something of the others.
const TELLING_PAGES: f64 = 8192.0;
/// Bytes that must be enough for that; and observations after which it is read in any case.
pub(super) const MOST_READY: f64 = 32e6;
const LONG_WANTED: u32 = 20;

/// An image, all of which is there to be sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// All of it.
    size: u64,
    /// Pages that are still to come.
    left: u64,
    /// Pages of its blocks so far, those of them that are residual, and bytes.
    pages: u64,
    residual: u64,
    bytes: u64,
    /// Bytes of blocks of pages as they are, of all bytes of their pages.
    density: f64,
    /// A block had all the pages that one may have, or what was on its way was all that may be, and the link did not have to wait.
    unhindered: bool,
    /// For how many observations the guest has been worth being read.
    wanted: u32,
    /// The guest was to be read.
    read: bool,
    /// And no residual page has come since.
    settling: Option<Settling>,
}

/// What comes between a guest that is read and its first residual pages.
#[derive(Clone, Copy, Debug)]
struct Settling {
    /// Blocks that were chosen before.
    before: usize,
    /// Bytes that may wait for the link until then.
    backlog: u64,
    over: bool,
}

impl Image {
    /// Of so many pages; its guest may still be to be read.
    pub(super) fn new(pages: u64, is_unread: bool) -> Self {
        let size = pages.saturating_mul(PAGE_SIZE as u64);
        Image { size, left: pages, density: 1.0, read: !is_unread, ..Image::default() }
    }

    /// Takes note of a block.
    pub(super) fn block(&mut self, effort: Effort, pages: u64, residual: u64, bytes: u64) {
        self.kept(pages);
        self.bytes += bytes;
        self.pages += pages;
        self.residual += residual;
        if let Some(settling) = &mut self.settling {
            settling.over |= settling.before == 0 && residual > 0;
            settling.before = settling.before.saturating_sub(1);
        }
        if effort == Effort::Store && pages > 0 {
            let density = bytes as f64 / (pages * PAGE_SIZE as u64) as f64;
            self.density += (density.clamp(SPARSEST, 1.0) - self.density) * TRUST;
        }
    }

    /// Takes note of pages that are not to come any more.
    pub(super) fn kept(&mut self, pages: u64) {
        self.left = self.left.saturating_sub(pages);
    }

    /// Whether its guest is being read, or was since the last observation.
    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// Takes note that an observation has counted what came until now.
    pub(super) fn observed(&mut self) {
        self.settling = self.settling.filter(|settling| !settling.over);
    }

    /// Takes note of whether its guest is worth being read.
    pub(super) fn wants_guest(&mut self, pays: bool) {
        self.wanted = if pays { self.wanted + 1 } else { 0 };
    }

    /// Whether so much went without the link having to wait as says something of its rate.
    pub(super) fn is_unhindered(&self) -> bool {
        self.unhindered
    }

    /// Bytes that may wait for the link while its guest is read: as many as before.
    pub(super) fn settling_backlog(&self) -> Option<u64> {
        self.settling.map(|settling| settling.backlog)
    }

    /// Bytes of which to have on the way is much, for an image of its size.
    pub(super) fn share(&self) -> u64 {
        self.size / LATER_OF
    }
}

impl Controller {
    /// Whether an image's first blocks are to find out how fast the link is.
    pub(super) fn probes(&self) -> bool {
        self.rate.is_none()
            && self.image.is_some()
            && self.prices.len() > 1
            && self.prices[0].effort == Effort::Store
    }

    /// Effort and pages of a block while nothing is known of the link. No more is on its way as it is than a few times what went so
    /// without having to wait: so the fast link is found, and the slow one not filled with what has to be waited for.
    pub(super) fn first(&mut self, waiting: u64) -> Option<(Effort, u64, Coding)> {
        if !self.probes() {
            return None;
        }
        let cheap = self.prices[1].effort;
        let on_its_way = self.before(waiting as f64).bytes as u64;
        let image = self.image.as_mut()?;
        let unhindered = image.bytes.saturating_sub(waiting);
        let later = if image.size < LARGE { image.share() } else { u64::MAX };
        let first = (image.size / FIRST_OF).min(FIRST_BYTES);
        let limit = (GROWTH * unhindered).clamp(first, later);
        let room = limit.saturating_sub(on_its_way) as f64 / self.in_flight;
        let page_bytes = PAGE_SIZE as f64 * image.density;
        let pages = ((room / page_bytes) as u64).min(*PAGES.end());
        let [least, others] = FIRST_PAGES;
        // Coding takes far longer: so not at once when it is only just too much.
        let (effort, pages, bytes) = if on_its_way < 2 * limit {
            let pages = pages.max(least);
            image.unhindered |= pages == *PAGES.end() || limit == later;
            (Effort::Store, pages, pages as f64 * page_bytes)
        } else {
            (cheap, others, 0.0)
        };
        self.plan = Plan { low: effort, high: effort };
        Some((effort, pages, Coding { bytes, seconds: 0.0 }))
    }

    /// Whether the guest is to be read now: that pays, and the link has enough to do meanwhile.
    pub(super) fn reads_guest(&mut self, waiting: f64) -> bool {
        let Some(takes) = self.guest_pays() else { return self.image.is_none() };
        let before = self.before(waiting);
        let coded = before.seconds / self.ends[0].cores;
        let ready = self.rate.is_some_and(|rate| before.bytes > (rate * (takes + coded)).min(MOST_READY));
        // Where a receiver takes less than that at once, it is read all the same.
        let reads = ready || self.image.as_ref().is_some_and(|image| image.wanted > LONG_WANTED);
        if reads && self.is_unread() {
            let settling = Settling { before: self.coding.len(), backlog: self.backlog(), over: false };
            if let Some(image) = &mut self.image {
                (image.read, image.settling) = (true, Some(settling));
            }
        }
        reads
    }

    pub(super) fn is_unread(&self) -> bool {
        self.image.as_ref().is_some_and(|image| !image.read)
    }

    /// Seconds without a residual page that it takes to read the guest, if what it says of itself is worth that.
    pub(super) fn guest_pays(&self) -> Option<f64> {
        let (image, rate) = (self.image.as_ref()?, self.rate?);
        let price = self.price(self.plan.low)?;
        if price.effort == Effort::Store {
            return None;
        }
        let [sender, receiver, link] = self.costs(price, rate);
        let left = image.left as f64;
        // Of all pages, not just the latest: to think otherwise again and again would cost more than either.
        let residual = (image.residual as f64 + 0.4 * TELLING_PAGES) / (image.pages as f64 + TELLING_PAGES);
        let saves = (link - sender.max(receiver)).clamp(0.0, link * GUEST_SAVES) * left * residual;
        let processors = &self.ends[0];
        let takes = GUEST_TAKES * left * processors.scale() / processors.cores;
        let waits = GUEST_WAITS * left * processors.scale();
        // What the link has to do meanwhile is not as much as one likes.
        let takes = takes + (waits - MOST_READY / rate).max(0.0);
        let enough = if image.wanted > 0 { 0.5 * takes } else { takes };
        (saves > enough).then_some(waits)
    }
}

//! `--effort auto`: how much work to spend on each block, so that neither the processors nor the link wait.
//!
//! Sending a residual page costs three things: time of the sender's processors, time of the receiver's, and bytes on the
//! link. Every effort has a price in each. The time that a page takes is the highest of what it costs on each meter, and
//! a mix of two efforts costs the mix of their prices; so the best way of sending is the effort, or the mix of two, whose dearest
//! meter is cheapest. Prices are measured as blocks go by; the link's rate is measured whenever there is more to send than
//! it takes. Within a mix, the queue decides block by block: when it runs dry, the cheaper effort, else the denser.
//!
//! Of a link of which nothing is known, an image's first blocks find out whether it is faster than we are: pages go as they are, a few at
//! first, and more and more as long as nothing has to wait for the link. What the guest says of itself is read
//! once the bytes that it saves take longer than reading it.
//!
//! Not a model of anything else: no guess at what the guest will do, and no memory beyond a second or so.

use std::collections::VecDeque;

use mig_engine::{Effort, How, PAGE_SIZE, Reach};

use mig_engine::live::Choice;

/// Seconds of link time in the queue below which it counts as running dry.
const LOW: f64 = 0.04;
/// Seconds of link time that may be queued.
const BACKLOG: f64 = 0.1;
/// Bytes that may be queued, however slow the link.
const MIN_BACKLOG: u64 = 256 << 10;
/// Bytes from which on a link that never had to wait says something of its rate.
const TELLING: u64 = 1 << 20;
/// Pages of a block.
const PAGES: std::ops::RangeInclusive<u64> = 1024..=8192;
/// Below this share of idle processor time, processors may be what holds up the link.
const BUSY: f64 = 0.12;
/// How much of a new measurement is believed.
const TRUST: f64 = 0.4;
/// How much more a link may carry than was seen, where it was not the limit.
const HOPE: f64 = 2.0;
const MAX_RATE: f64 = 1e12;
/// Bytes of pages as they are that may be on their way over a link of which nothing is known; and how many times what went without
/// having to wait.
const FIRST_BYTES: u64 = 256 << 10;
const GROWTH: u64 = 4;
/// Pages of a block with which that goes on, and of the others meanwhile.
const FIRST_PAGES: [u64; 2] = [8, 256];
/// Bytes of such a block are not supposed to be less than this share of its pages.
const SPARSEST: f64 = 0.125;
/// Seconds of measuring from which on a link is believed to be slow enough for efforts that take long: connections begin slowly.
const LONG: f64 = 0.09;
/// The highest effort before that.
const SOON: Effort = Effort::Balanced;
/// The share of residual bytes that is saved by what the guest says of itself, and processor time that it takes: to find it in each page's
/// bytes, and to settle all pages before any other is coded.
const GUEST_SAVES: f64 = 0.1;
const GUEST_TAKES: f64 = 0.7e-6;
/// What a mix must save before it is preferred to a single effort.
const WORTH: f64 = 0.98;

/// What one residual page costs at an effort.
#[derive(Clone, Copy, Debug)]
struct Price {
    effort: Effort,
    /// Bytes on the link.
    bytes: f64,
    /// Seconds of one processor, at the sender and at the receiver: on the machine that the figures below were measured on.
    sender: f64,
    receiver: f64,
}

/// What is supposed until blocks have been coded: figures of a Debian desktop (`docs/benchmarks.md`).
fn supposed(effort: Effort) -> Price {
    let (bytes, sender, receiver) = match effort {
        Effort::Store => (4100.0, 3.0e-6, 3.5e-6),
        Effort::Fast => (700.0, 11.0e-6, 6.0e-6),
        Effort::Balanced => (650.0, 15.0e-6, 6.5e-6),
        Effort::Dense => (430.0, 120.0e-6, 40.0e-6),
        Effort::Max => (370.0, 1200.0e-6, 40.0e-6),
    };
    Price { effort, bytes, sender, receiver }
}

/// Processor time that any page takes, residual or not: scanned, settled, verified.
const ANY_PAGE: [f64; 2] = [0.4e-6, 0.8e-6];

/// One end's processors.
#[derive(Clone, Copy, Debug)]
struct Processors {
    cores: f64,
    /// How much slower than the figures above, as measured.
    scale: f64,
}

/// What happened since the last time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// How long that was.
    pub seconds: f64,
    /// Bytes that arrived.
    pub delivered: u64,
    /// Whether there was something to send all the while.
    pub backlogged: bool,
    /// Processor time that the sender and the receiver used, in seconds.
    pub used: [f64; 2],
    /// Share of the processors that nobody used, at the sender and the receiver, where it is known.
    pub idle: [Option<f64>; 2],
}

/// Chooses efforts.
#[derive(Clone, Debug)]
pub struct Controller {
    prices: Vec<Price>,
    ends: [Processors; 2],
    same_machine: bool,
    in_flight: f64,
    /// Bytes a second, once known.
    rate: Option<f64>,
    /// Residual pages of the pages of a block that has any: those of a guest may come apart from its other pages.
    residual: f64,
    /// Of the time since the last observation: pages, and residual pages by effort.
    pages: u64,
    coded: Vec<u64>,
    plan: Plan,
    /// References are used.
    reach: Reach,
    image: Option<Image>,
}

/// An image, all of which is there to be sent.
#[derive(Clone, Debug)]
struct Image {
    /// Pages that are still to come.
    left: u64,
    /// Bytes of its blocks so far.
    bytes: u64,
    /// Bytes that blocks may come to that were chosen and are not coded yet, while nothing is known of the link.
    promised: VecDeque<u64>,
    /// Bytes of blocks of pages as they are, of all bytes of their pages.
    density: f64,
    /// A block had all the pages that one may have, and the link did not have to wait.
    unhindered: bool,
}

/// What the next blocks are to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// When the queue runs dry.
    pub low: Effort,
    /// Else. The same where there is nothing to mix.
    pub high: Effort,
}

impl Plan {
    fn at_most(self, other: Plan) -> Plan {
        Plan { low: self.low.min(other.low), high: self.high.min(other.high) }
    }
}

impl Controller {
    /// Chooses among these efforts, in ascending order; `cores` of the sender and the receiver, which may be the same machine.
    /// Up to `in_flight` blocks are coded at once.
    pub fn new(efforts: &[Effort], cores: [u32; 2], same_machine: bool, in_flight: usize) -> Self {
        let end = |cores: u32| Processors { cores: f64::from(cores.max(1)), scale: 1.0 };
        let prices: Vec<Price> = efforts.iter().copied().map(supposed).collect();
        let start = efforts.iter().copied().find(|effort| *effort > Effort::Store);
        let start = start.or(efforts.first().copied()).unwrap_or(Effort::Store);
        Controller {
            coded: vec![0; prices.len()],
            prices,
            ends: cores.map(end),
            same_machine,
            in_flight: in_flight as f64,
            rate: None,
            residual: 0.4,
            pages: 0,
            plan: Plan { low: start, high: start },
            reach: Reach::All,
            image: None,
        }
    }

    /// What is sent is an image of so many pages, all of which is there: how fast they are sent is up to the efforts and the link.
    pub fn of_image(mut self, pages: u64) -> Self {
        let promised = VecDeque::new();
        self.image = Some(Image { left: pages, bytes: 0, promised, density: 1.0, unhindered: false });
        self
    }

    /// The same effort always.
    pub fn fixed(effort: Effort, in_flight: usize) -> Self {
        Self::new(&[effort], [1, 1], false, in_flight)
    }

    /// References are not to be used any more.
    pub fn without_references(&mut self) {
        self.reach = Reach::Guest;
    }

    /// The efforts that blocks have at present.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// What the link carries, in bytes a second, once that is known.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Takes note of a block: its pages, those of them that are residual, and its bytes.
    pub fn block(&mut self, effort: Effort, pages: u64, residual: u64, bytes: u64) {
        self.pages += pages;
        if let Some(image) = &mut self.image {
            image.left = image.left.saturating_sub(pages);
            image.bytes += bytes;
            image.promised.pop_front();
            if effort == Effort::Store && pages > 0 {
                let density = bytes as f64 / (pages * PAGE_SIZE as u64) as f64;
                image.density += (density.clamp(SPARSEST, 1.0) - image.density) * TRUST;
            }
        }
        if residual > 0 {
            self.residual += (residual as f64 / pages as f64 - self.residual) * 0.1;
        }
        let Some(place) = self.prices.iter().position(|price| price.effort == effort) else { return };
        self.coded[place] += residual;
        // A few pages say little about the others.
        if residual >= 64 {
            let price = &mut self.prices[place];
            price.bytes += (bytes as f64 / residual as f64 - price.bytes) * 0.1;
        }
    }

    /// Takes note of what happened since the last time, and makes a new plan.
    pub fn observe(&mut self, seen: &Observed) {
        if seen.seconds <= 0.0 {
            return;
        }
        self.measure_processors(seen);
        self.measure_link(seen);
        self.coded.fill(0);
        self.pages = 0;
        let mut plan = self.best();
        let soon = self.prices.iter().map(|price| price.effort).filter(|&effort| effort <= SOON).max();
        if let Some(soon) = soon.filter(|_| seen.seconds < LONG) {
            plan = plan.at_most(Plan { low: soon, high: soon });
        }
        // A link that did not have to wait is no reason to spend more on each page, whatever is thought of its rate.
        self.plan = if seen.backlogged { plan } else { plan.at_most(self.plan) };
    }

    /// Compares what the processors did with what the prices say they should have needed.
    fn measure_processors(&mut self, seen: &Observed) {
        for (end, any_page) in ANY_PAGE.into_iter().enumerate() {
            let price = |price: &Price| if end == 0 { price.sender } else { price.receiver };
            let coded = self.prices.iter().zip(&self.coded);
            let needed: f64 = coded.map(|(of, &pages)| price(of) * pages as f64).sum::<f64>()
                + any_page * self.pages as f64;
            // Too little work measures nothing.
            if needed > 0.2 * seen.seconds * 0.05 && seen.used[end] > 0.0 {
                let scale = (seen.used[end] / needed).clamp(0.1, 20.0);
                let known = &mut self.ends[end].scale;
                *known += (scale - *known) * TRUST * 0.5;
            }
        }
    }

    fn measure_link(&mut self, seen: &Observed) {
        let measured = seen.delivered as f64 / seen.seconds;
        let busy = seen.idle.iter().flatten().any(|idle| *idle < BUSY);
        let Some(rate) = self.rate else {
            // A link that carried the little that there was says nothing of what it can carry: a guest's pages are settled first, and
            // what is left of them comes when all of them are.
            let (least, rate) = if seen.backlogged { (1, measured) } else { (TELLING, measured * HOPE) };
            // Nor does one that carried what the first blocks came to.
            if !seen.backlogged && self.probes() && self.image.as_ref().is_some_and(|image| !image.unhindered)
            {
                return;
            }
            if seen.delivered >= least {
                self.rate = Some(rate.max(1.0));
            }
            return;
        };
        let new = if !seen.backlogged {
            // There was not enough to send: the link may carry more than anybody has seen. Hoping for it is how to find out; if it
            // is not so, the queue fills, and the rate is measured. But a link that was given little has proven nothing.
            rate.max(measured * HOPE).min(MAX_RATE)
        } else if busy {
            // Where processors are the limit, the link may carry more than that, but not less.
            if measured * 1.5 <= rate {
                return;
            }
            measured * 1.5
        } else {
            measured
        };
        // A tenfold change is no noise.
        let trust = if new > rate * 3.0 || new < rate / 3.0 { 0.8 } else { TRUST };
        self.rate = Some((rate + (new - rate) * trust).max(1.0));
    }

    /// What a residual page at this effort costs on each meter, in seconds: processors of both ends, link.
    fn costs(&self, price: &Price, rate: f64) -> [f64; 3] {
        let [sender, receiver] = &self.ends;
        let others = 1.0 / self.residual.clamp(0.02, 1.0);
        let (at_sender, at_receiver) = (
            (price.sender + ANY_PAGE[0] * others) * sender.scale,
            (price.receiver + ANY_PAGE[1] * others) * receiver.scale,
        );
        let link = price.bytes / rate;
        if self.same_machine {
            let both = (at_sender + at_receiver) / sender.cores;
            [both, both, link]
        } else {
            [at_sender / sender.cores, at_receiver / receiver.cores, link]
        }
    }

    /// The effort, or the mix of two, whose dearest meter is cheapest.
    fn best(&self) -> Plan {
        let Some(rate) = self.rate else { return self.plan };
        let costs: Vec<[f64; 3]> = self.prices.iter().map(|price| self.costs(price, rate)).collect();
        let dearest = |cost: [f64; 3]| cost.into_iter().fold(0.0, f64::max);
        let single = (0..costs.len()).min_by(|&a, &b| dearest(costs[a]).total_cmp(&dearest(costs[b])));
        let Some(single) = single else { return self.plan };
        let (mut best, mut plan) = (
            dearest(costs[single]) * WORTH,
            Plan { low: self.prices[single].effort, high: self.prices[single].effort },
        );
        // A guest's own order makes blocks of thousands of pages, which at the efforts above take longer than any queue lasts.
        let mixed = self.prices.iter().filter(|price| price.effort <= SOON).count();
        for high in 0..mixed {
            for low in 0..high {
                let mix = |share: f64| -> [f64; 3] {
                    std::array::from_fn(|meter| {
                        costs[low][meter] * (1.0 - share) + costs[high][meter] * share
                    })
                };
                // The dearest meter of a mix is lowest at its ends, or where two meters cross.
                for one in 0..3 {
                    for other in 0..one {
                        let [at_low, at_high] =
                            [low, high].map(|effort: usize| costs[effort][one] - costs[effort][other]);
                        let share = at_low / (at_low - at_high);
                        if (0.0..1.0).contains(&share) && dearest(mix(share)) < best {
                            best = dearest(mix(share));
                            plan = Plan { low: self.prices[low].effort, high: self.prices[high].effort };
                        }
                    }
                }
            }
        }
        plan
    }

    /// How the next block is to be made, when so many bytes wait for the link.
    pub fn choose(&mut self, waiting: u64) -> Choice {
        let guest = self.guest_pays();
        let (effort, pages) = match self.first(waiting) {
            Some(first) => first,
            None => {
                let dry = self.rate.is_some_and(|rate| (waiting as f64) < rate * LOW);
                let effort = if dry { self.plan.low } else { self.plan.high };
                (effort, self.pages_of(effort))
            }
        };
        Choice { how: How { effort, reach: self.reach }, pages, guest }
    }

    /// Whether an image's first blocks are to find out how fast the link is.
    fn probes(&self) -> bool {
        self.rate.is_none()
            && self.image.is_some()
            && self.prices.len() > 1
            && self.prices[0].effort == Effort::Store
    }

    /// Effort and pages of a block while nothing is known of the link. No more is on its way as it is than a few times what went so
    /// without having to wait: so the fast link is found, and the slow one not filled with what has to be waited for.
    fn first(&mut self, waiting: u64) -> Option<(Effort, u64)> {
        if !self.probes() {
            return None;
        }
        let cheap = self.prices[1].effort;
        let image = self.image.as_mut()?;
        let unhindered = image.bytes.saturating_sub(waiting);
        let on_its_way = waiting + image.promised.iter().sum::<u64>();
        let limit = (GROWTH * unhindered).max(FIRST_BYTES);
        let room = limit.saturating_sub(on_its_way) as f64 / self.in_flight;
        let page_bytes = PAGE_SIZE as f64 * image.density;
        let pages = ((room / page_bytes) as u64).min(*PAGES.end());
        let [least, others] = FIRST_PAGES;
        // Coding takes far longer: so not at once when it is only just too much.
        let (effort, pages, promised) = if on_its_way < 2 * limit {
            let pages = pages.max(least);
            image.unhindered |= pages == *PAGES.end();
            (Effort::Store, pages, (pages as f64 * page_bytes) as u64)
        } else {
            (cheap, others, 0)
        };
        image.promised.push_back(promised);
        self.plan = Plan { low: effort, high: effort };
        Some((effort, pages))
    }

    /// Whether what the guest says of itself is worth the time to read it.
    fn guest_pays(&self) -> bool {
        let Some(image) = &self.image else { return true };
        let (Some(rate), true) = (self.rate, self.plan.low > Effort::Store) else { return false };
        let Some(price) = self.prices.iter().find(|price| price.effort == self.plan.low) else {
            return false;
        };
        let [sender, receiver, link] = self.costs(price, rate);
        let left = image.left as f64;
        let saves = (link - sender.max(receiver)).clamp(0.0, link * GUEST_SAVES) * left * self.residual;
        let processors = &self.ends[0];
        saves > GUEST_TAKES * left * processors.scale / processors.cores
    }

    /// Large blocks compress best. But what is coded can't be coded again when the link changes: so the blocks in flight are no
    /// more than it takes in a tenth of a second, unless more effort is not to be had anyway. And in a mix, a block must not take
    /// longer to code than the queue lasts.
    fn pages_of(&self, effort: Effort) -> u64 {
        let last = self.prices.last().is_some_and(|price| price.effort == effort);
        let price = self.prices.iter().find(|price| price.effort == effort);
        let (Some(price), Some(rate)) = (price, self.rate) else { return *PAGES.start() };
        let pure = self.plan.low == self.plan.high;
        if last && pure && self.prices.len() > 1 {
            return *PAGES.end();
        }
        let residual = self.residual.max(0.02);
        let by_link = rate * BACKLOG / (self.in_flight + 1.0) / (price.bytes * residual);
        let sender = &self.ends[0];
        let coded = price.sender * sender.scale * residual / sender.cores;
        let by_processors = if pure { f64::MAX } else { LOW / coded };
        (by_link.min(by_processors) as u64).clamp(*PAGES.start(), *PAGES.end())
    }

    /// Bytes that may wait for the link.
    pub fn backlog(&self) -> u64 {
        let bytes = self.rate.map_or(4.0 * MIN_BACKLOG as f64, |rate| rate * BACKLOG);
        (bytes as u64).max(MIN_BACKLOG)
    }
}

#[cfg(test)]
mod tests;

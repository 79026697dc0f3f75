//! `--effort auto`: how much work to spend on each block, so that neither the processors nor the link wait.
//!
//! Sending a residual page costs three things: time of the sender's processors, time of the receiver's, and bytes on the
//! link. Every effort has a price in each. The time that a page takes is the highest of what it costs on each meter, and
//! a mix of two efforts costs the mix of their prices; so the best way of sending is the effort, or the mix of two, whose dearest
//! meter is cheapest. Prices are measured as blocks go by; the link's rate is measured whenever there is more to send than
//! it takes. Within a mix, the queue decides block by block: the denser effort where the link has enough to do until
//! such a block is coded, else the cheaper one.
//!
//! Of a link of which nothing is known, an image's first blocks find out whether it is faster than we are: pages go as they are, a few at
//! first, and more and more as long as nothing has to wait for the link. What the guest says of itself is read
//! once the bytes that it saves take longer than reading it, and the link has enough to do until that is done.
//!
//! Not a model of anything else: no guess at what the guest will do, and no memory beyond a second or so.

mod image;

use std::collections::VecDeque;

use mig_engine::live::{Choice, Next};
use mig_engine::{Effort, How, Reach};

use image::{Image, MOST_READY, READY};

/// Seconds of link time that the queue should last when a block is coded.
const LOW: f64 = 0.02;
/// Seconds that one processor may take for any block.
const LONGEST: f64 = 4.0;
/// Seconds that one processor may take for a block of a mix: less than the queue lasts, since what is coded after it waits for it.
const BLOCK: f64 = 0.012;
/// Seconds of link time that may be queued; and where efforts are mixed one of which takes long.
const BACKLOG: [f64; 2] = [0.06, 0.3];
/// The same while pages can be taken in meanwhile.
const GATHERING: f64 = 0.5;
/// Bytes that may be queued, however slow the link.
const MIN_BACKLOG: u64 = 256 << 10;
/// Bytes from which on a link that never had to wait says something of its rate.
const TELLING: u64 = 1 << 20;
/// Pages of a block.
const PAGES: std::ops::RangeInclusive<u64> = 1024..=8192;
/// Below this share of idle processor time, processors may be what holds up the link.
const BUSY: f64 = 0.12;
/// Seconds to look for: at a link that did not hold anything up in the few times that it was looked at, and else.
const INTERVALS: [f64; 2] = [0.02, 0.1];
const FEW: u32 = 10;
/// How much of a new measurement is believed.
const TRUST: f64 = 0.4;
/// How much more a link may carry than was seen, where it was not the limit.
const HOPE: f64 = 2.0;
/// Bytes a second that busy processors bring over a link all the same, where they are there to be sent.
const EASY: f64 = 5e7;
/// By how much a link that is the limit differs from one time to the next. What processors have no time to send differs by more.
const STEADY: f64 = 0.03;
const MAX_RATE: f64 = 1e12;
/// Seconds of measuring from which on a link is believed to be slow enough for efforts that take long: connections begin slowly.
const LONG: f64 = 0.09;
/// The highest effort before that.
const SOON: Effort = Effort::Balanced;
/// The highest effort of a mix: a thousand pages at `max` take longer than any queue lasts.
const MIXED: Effort = Effort::Dense;
/// How much of what pages at one effort are larger or smaller than thought, in the logarithm, is supposed of those at others.
const ALIKE: f64 = 0.8;
/// How many times what the processors take it is by far.
const BY_FAR: f64 = 2.0;
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
        Effort::Balanced => (640.0, 16.0e-6, 6.5e-6),
        Effort::Dense => (430.0, 80.0e-6, 40.0e-6),
        Effort::Max => (370.0, 1500.0e-6, 40.0e-6),
    };
    Price { effort, bytes, sender, receiver }
}

/// Processor time that any page takes, residual or not: scanned, settled, verified.
const ANY_PAGE: [f64; 2] = [0.4e-6, 0.8e-6];

/// One end's processors.
#[derive(Clone, Copy, Debug)]
struct Processors {
    cores: f64,
    /// Seconds that they took lately, and that the figures above say they should have taken.
    used: f64,
    needed: f64,
}

impl Processors {
    fn new(cores: u32) -> Self {
        Processors { cores: f64::from(cores.max(1)), used: SUPPOSED, needed: SUPPOSED }
    }

    /// How much slower than the figures above.
    fn scale(&self) -> f64 {
        (self.used / self.needed).clamp(0.1, 20.0)
    }
}

/// Seconds of processor time for which the figures above are believed; and for which others are, and how many times what is being coded.
const SUPPOSED: f64 = 0.05;
const REMEMBERED: f64 = 0.5;
const IN_CODING: f64 = 4.0;

/// What happened since the last time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// How long that was.
    pub seconds: f64,
    /// Bytes that arrived.
    pub delivered: u64,
    /// Whether there was something to send all the while.
    pub backlogged: bool,
    /// Whether a part of that was still with the sender: what is on a long way keeps nothing waiting.
    pub queued: bool,
    /// Processor time that the sender and the receiver used, in seconds.
    pub used: [f64; 2],
    /// Share of the processors that nobody used, at the sender and the receiver, where it is known.
    pub idle: [Option<f64>; 2],
}

/// Fewer bytes than these on their way, and the link may have run dry.
const DRY: u64 = 48 << 10;
/// How often an interval may begin anew, before whatever it saw counts.
const TURNS: u32 = 16;

/// Whether something waits for a link during an interval. What it carries is measured from when that is so, and as long as it is.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    least: u64,
    turns: u32,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { least: u64::MAX, turns: 0 }
    }
}

impl Waiting {
    /// An interval begins.
    pub fn start(&mut self) {
        self.least = u64::MAX;
    }

    /// Whether so many bytes on their way are not as it was, so that the interval should begin anew, if nothing is known of the link. That
    /// is so a few times only: a link that each block keeps busy for a moment would otherwise never be measured.
    pub fn turns(&mut self, bytes: u64) -> bool {
        let turns = self.least != u64::MAX && (bytes > DRY) != (self.least > DRY) && self.turns < TURNS;
        self.turns += u32::from(turns);
        turns
    }

    /// Takes note of the bytes that are on their way.
    pub fn note(&mut self, bytes: u64) {
        self.least = self.least.min(bytes);
    }

    /// Whether something waited all the while.
    pub fn throughout(&self) -> bool {
        self.least > DRY
    }
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
    /// What it carried in the latest interval, if something waited to be sent all the while.
    latest: Option<f64>,
    /// How often the link is still to be looked at sooner, since it may be much faster.
    sooner: u32,
    /// Residual pages of the pages of a block that has any: those of a guest may come apart from its other pages.
    residual: f64,
    /// Of the time since the last observation: pages, and residual pages by effort.
    pages: u64,
    coded: Vec<u64>,
    plan: Plan,
    /// Blocks that were chosen and did not have their turn yet, in order.
    coding: VecDeque<Coding>,
    /// References are used.
    reach: Reach,
    image: Option<Image>,
    /// Pages can be taken in that wait for the link.
    gathers: bool,
}

/// A block that is being coded, or waits for those before it.
#[derive(Clone, Copy, Debug, Default)]
struct Coding {
    /// What it is supposed to come to.
    bytes: f64,
    /// Seconds of one processor that it is supposed to take, at both ends if they are one machine.
    seconds: f64,
}

/// What the next blocks are to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Where the link would soon have nothing to do.
    pub low: Effort,
    /// Else. The same where there is nothing to mix.
    pub high: Effort,
}

impl Plan {
    fn is_pure(self) -> bool {
        self.low == self.high
    }

    fn at_most(self, other: Plan) -> Plan {
        Plan { low: self.low.min(other.low), high: self.high.min(other.high) }
    }
}

impl Controller {
    /// Chooses among these efforts, in ascending order; `cores` of the sender and the receiver, which may be the same machine.
    /// Up to `in_flight` blocks are coded at once.
    pub fn new(efforts: &[Effort], cores: [u32; 2], same_machine: bool, in_flight: usize) -> Self {
        let prices: Vec<Price> = efforts.iter().copied().map(supposed).collect();
        let start = efforts.iter().copied().find(|effort| *effort > Effort::Store);
        let start = start.or(efforts.first().copied()).unwrap_or(Effort::Store);
        Controller {
            coded: vec![0; prices.len()],
            prices,
            ends: cores.map(Processors::new),
            same_machine,
            in_flight: in_flight as f64,
            rate: None,
            latest: None,
            sooner: FEW,
            residual: 0.4,
            pages: 0,
            plan: Plan { low: start, high: start },
            coding: VecDeque::new(),
            reach: Reach::All,
            image: None,
            gathers: false,
        }
    }

    /// What is sent is an image of so many pages, all of which is there: how fast they are sent is up to the efforts and the link. Its guest
    /// may still be to be read.
    pub fn of_image(mut self, pages: u64, is_unread: bool) -> Self {
        self.image = Some(Image::new(pages, is_unread));
        self
    }

    /// The same effort always.
    pub fn fixed(effort: Effort, in_flight: usize) -> Self {
        Self::new(&[effort], [1, 1], false, in_flight)
    }

    /// Whether pages can be taken in while others wait for the link. Then these may be more, as nothing is coded meanwhile.
    pub fn gathers(&mut self, gathers: bool) {
        self.gathers = gathers;
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

    /// Seconds from one [observation](Self::observe) to the next.
    pub fn interval(&self) -> f64 {
        INTERVALS[usize::from(self.rate.is_some() && self.sooner == 0)]
    }

    fn price(&self, effort: Effort) -> Option<&Price> {
        self.prices.iter().find(|price| price.effort == effort)
    }

    /// Takes note of a block: its pages, those of them that are residual, and its bytes.
    pub fn block(&mut self, effort: Effort, pages: u64, residual: u64, bytes: u64) {
        self.pages += pages;
        self.coding.pop_front();
        if let Some(image) = &mut self.image {
            image.block(effort, pages, residual, bytes);
        }
        if residual > 0 {
            self.residual += (residual as f64 / pages as f64 - self.residual) * 0.1;
        }
        let Some(place) = self.prices.iter().position(|price| price.effort == effort) else { return };
        self.coded[place] += residual;
        // A few pages say little about the others.
        if residual >= 64 {
            let known = self.prices[place].bytes;
            let now = known + (bytes as f64 / residual as f64 - known) * 0.1;
            // What makes these pages larger or smaller makes them so at the other efforts, which may not have seen any like them.
            if effort > Effort::Store {
                let coders = self.prices.iter_mut().filter(|price| price.effort > Effort::Store);
                coders.for_each(|price| price.bytes *= (now / known).powf(ALIKE));
            }
            self.prices[place].bytes = now;
        }
    }

    /// Takes note of pages that the destination has from before.
    pub fn kept(&mut self, pages: u64) {
        if let Some(image) = &mut self.image {
            image.kept(pages);
        }
    }

    /// Takes note of what happened since the last time, and makes a new plan.
    pub fn observe(&mut self, seen: &Observed) {
        if seen.seconds <= 0.0 {
            return;
        }
        // The figures above say nothing of reading a guest.
        if self.image.as_ref().is_none_or(|image| !image.is_settling()) {
            self.measure_processors(seen);
        }
        if let Some(image) = &mut self.image {
            image.observed();
        }
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
        let pays = self.guest_pays().is_some();
        if let Some(image) = &mut self.image {
            image.wants_guest(pays);
        }
    }

    /// Compares what the processors did with what the prices say they should have needed.
    fn measure_processors(&mut self, seen: &Observed) {
        for (end, any_page) in ANY_PAGE.into_iter().enumerate() {
            let price = |price: &Price| if end == 0 { price.sender } else { price.receiver };
            let coded = self.prices.iter().zip(&self.coded);
            let needed: f64 = coded.map(|(of, &pages)| price(of) * pages as f64).sum::<f64>()
                + any_page * self.pages as f64;
            let being_coded: f64 = self.coding.iter().map(|coding| coding.seconds).sum();
            let known = &mut self.ends[end];
            // What else the processors did says nothing of them.
            if seen.used[end] > 0.0 && (needed > 0.0 || !self.coding.is_empty()) {
                known.used += seen.used[end];
                known.needed += needed;
                // A block counts when it is coded, whenever that was done: what was needed is late by what is being coded. So much more
                // than that has to count.
                let most = REMEMBERED.max(IN_CODING * being_coded / known.scale());
                let kept = (most / known.needed).min(1.0);
                known.used *= kept;
                known.needed *= kept;
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
            if !seen.backlogged
                && self.probes()
                && self.image.as_ref().is_some_and(|image| !image.is_unhindered())
            {
                return;
            }
            if seen.delivered >= least {
                self.rate = Some(rate.max(1.0));
            }
            return;
        };
        // What it carries is the same while processors do now more, now less.
        let steady = self.latest.is_some_and(|latest| (measured - latest).abs() < latest * STEADY);
        self.latest = (seen.backlogged && seen.queued).then_some(measured);
        let busy = busy && (measured > EASY && !steady || !seen.queued);
        let held_up = seen.backlogged && !busy;
        self.sooner = if held_up { 0 } else { self.sooner.saturating_sub(1) };
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
            (price.sender + ANY_PAGE[0] * others) * sender.scale(),
            (price.receiver + ANY_PAGE[1] * others) * receiver.scale(),
        );
        let link = price.bytes / rate;
        if self.same_machine {
            let both = (at_sender + at_receiver) / sender.cores;
            [both, both, link]
        } else {
            [at_sender / sender.cores, at_receiver / receiver.cores, link]
        }
    }

    /// Whether the link is by far what takes longest at an effort.
    fn waits_for_link(&self, effort: Effort) -> bool {
        let (Some(price), Some(rate)) = (self.price(effort), self.rate) else { return false };
        let [sender, receiver, link] = self.costs(price, rate);
        link > sender.max(receiver) * BY_FAR
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
        let mixed = self.prices.iter().filter(|price| price.effort <= MIXED).count();
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
    pub fn choose(&mut self, next: Next, waiting: u64) -> Choice {
        // Those before it were given up, or never begun.
        while self.coding.len() as f64 >= self.in_flight.max(1.0) {
            self.coding.pop_front();
        }
        let guest = self.reads_guest(waiting as f64);
        let (effort, pages, coding) = self.first(waiting).unwrap_or_else(|| {
            // Nothing of what was left for later is settled.
            let residual = if next == Next::Left { 1.0 } else { self.residual };
            let effort = self.effort(waiting as f64, residual);
            let whole = next == Next::Left
                && self.plan.is_pure()
                && (self.prices.len() == 1 || self.waits_for_link(effort));
            // In the guest's order much is alike that lies far apart. But such blocks take long, and a plan may change meanwhile.
            let pages = if whole { self.longest(effort, residual) } else { self.pages_of(effort, residual) };
            (effort, pages, self.supposed(effort, pages, residual))
        });
        self.coding.push_back(coding);
        Choice { how: How { effort, reach: self.reach }, pages, guest }
    }

    /// Of a mix, the denser effort, if the link has enough to do until such a block is coded after those that are being coded.
    fn effort(&self, waiting: f64, residual: f64) -> Effort {
        let Plan { low, high } = self.plan;
        let (Some(rate), false) = (self.rate, low == high) else { return high };
        // While the link is given enough to do until the guest is read, pages go at little cost.
        if self.is_unread() && self.guest_pays().is_some() {
            return low;
        }
        let block = self.supposed(high, self.pages_of(high, residual), residual);
        let before = self.before(waiting);
        // A block is coded by one processor, for the most part.
        let coded = ((before.seconds + block.seconds) / self.ends[0].cores).max(block.seconds);
        // And it has enough at present: what is thought of its rate may be wrong.
        if waiting > rate * LOW && before.bytes > rate * (coded + LOW) { high } else { low }
    }

    /// What is to be sent and coded before any other block.
    fn before(&self, waiting: f64) -> Coding {
        let waiting = Coding { bytes: waiting, seconds: 0.0 };
        self.coding.iter().fold(waiting, |sum, coding| Coding {
            bytes: sum.bytes + coding.bytes,
            seconds: sum.seconds + coding.seconds,
        })
    }

    /// What a block of so many pages is supposed to come to, and to take.
    fn supposed(&self, effort: Effort, pages: u64, residual: f64) -> Coding {
        let Some(price) = self.price(effort) else { return Coding::default() };
        let pages = pages as f64;
        let mut seconds = (price.sender * residual + ANY_PAGE[0]) * pages * self.ends[0].scale();
        if self.same_machine {
            seconds += (price.receiver * residual + ANY_PAGE[1]) * pages * self.ends[1].scale();
        }
        Coding { bytes: price.bytes * pages * residual, seconds }
    }

    /// Large blocks compress best. But what is coded can't be coded again when the link changes: so the blocks in flight are no
    /// more than it takes in the time that the queue lasts, unless more effort is not to be had anyway. And in a mix, a block takes little
    /// time, but for those of the fewest pages that are worth the while. Of the pages, so many are residual.
    fn pages_of(&self, effort: Effort, residual: f64) -> u64 {
        let last = self.prices.last().is_some_and(|price| price.effort == effort);
        let (Some(price), Some(rate)) = (self.price(effort), self.rate) else { return *PAGES.start() };
        let pure = self.plan.is_pure();
        let residual = residual.max(0.02);
        if last && pure && self.prices.len() > 1 {
            return self.longest(effort, residual);
        }
        let by_link = rate * BACKLOG[0] / (self.in_flight + 1.0) / (price.bytes * residual);
        let coded = price.sender * self.ends[0].scale() * residual;
        let by_processors = if pure { f64::MAX } else { BLOCK / coded };
        (by_link.min(by_processors) as u64).clamp(*PAGES.start(), *PAGES.end())
    }

    /// As many pages as a block may have, but no more than are coded in a few seconds: of a choice among efforts, or a wrong guess at the link
    /// would cost minutes.
    fn longest(&self, effort: Effort, residual: f64) -> u64 {
        let price = self.price(effort).filter(|_| self.prices.len() > 1);
        let pages =
            price.map_or(f64::MAX, |price| LONGEST / (price.sender * self.ends[0].scale() * residual));
        (pages as u64).clamp(*PAGES.start(), *PAGES.end())
    }

    /// Bytes that may wait for the link.
    pub fn backlog(&self) -> u64 {
        // As it was before the guest was read, until residual pages come again: or what was settled would have to wait.
        if let Some(backlog) = self.image.as_ref().and_then(Image::settling_backlog) {
            return backlog;
        }
        let takes_long = !self.plan.is_pure() && self.plan.high > SOON;
        // Before it is read, as much as it takes to do so.
        let reading = self.guest_pays().filter(|_| self.is_unread()).map_or(0.0, |takes| takes * READY);
        let seconds = if self.gathers { GATHERING } else { BACKLOG[usize::from(takes_long)] };
        let Some(rate) = self.rate else {
            // Of a small image, not all of it is to be coded before anything is known.
            let share = self.image.as_ref().map_or(u64::MAX, Image::share);
            return (4 * MIN_BACKLOG).min(share.max(DRY));
        };
        let bytes = (rate * reading).min(READY * MOST_READY).max(rate * seconds);
        (bytes as u64).max(MIN_BACKLOG)
    }
}

#[cfg(test)]
mod tests;

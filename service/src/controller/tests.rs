//! The controller against a simulated encoder and link: whole transfers, at every speed, and changes in mid-flight.

use super::image::FIRST_PAGES;
use super::*;

/// A machine on which the real costs are not what the controller supposes.
struct World {
    costs: Vec<(Effort, f64, f64, f64)>,
    cores: [f64; 2],
    same_machine: bool,
    /// Bytes a second, at a time.
    rate: fn(f64) -> f64,
    /// Of guest pages, those that are residual.
    residual: f64,
    /// The others come before them.
    settled_first: bool,
}

/// Blocks that are coded at once.
const IN_FLIGHT: usize = 5;
const EFFORTS: [Effort; 5] = Effort::AVAILABLE;

impl World {
    fn new(rate: fn(f64) -> f64) -> Self {
        // Slower processors than supposed, and another guest.
        let costs = vec![
            (Effort::Store, 4100.0, 5.0e-6, 4.0e-6),
            (Effort::Fast, 900.0, 20.0e-6, 9.0e-6),
            (Effort::Balanced, 820.0, 29.0e-6, 10.0e-6),
            (Effort::Dense, 560.0, 210.0e-6, 50.0e-6),
            (Effort::Max, 510.0, 2000.0e-6, 50.0e-6),
        ];
        World { costs, cores: [4.0, 4.0], same_machine: false, rate, residual: 0.4, settled_first: false }
    }

    /// Sends so many pages; gives the time, and for each time step the share of each effort.
    fn run(&self, controller: &mut Controller, pages: u64) -> (f64, Vec<(f64, Effort)>) {
        const STEP: f64 = 0.0005;
        let (mut time, mut left) = (0.0, pages as f64);
        // Pages of this and of any later block that are residual.
        let residual_of = |left: f64| match self.settled_first {
            true if left > self.residual * pages as f64 => 0.0,
            true => 1.0,
            false => self.residual,
        };
        let mut queue = 0.0;
        // Blocks being coded, in order: effort, pages, residual pages, processor time still needed, and the sender's share of it. Each has one
        // processor.
        let mut coding: VecDeque<(Effort, f64, f64, f64, f64)> = VecDeque::new();
        let (mut seen, mut waiting) = (Observed::default(), Waiting::default());
        let mut log = Vec::new();
        let cost = |effort: Effort| self.costs.iter().find(|cost| cost.0 == effort).copied().unwrap();
        while left > 0.0 || queue > 0.0 || !coding.is_empty() {
            time += STEP;
            // The link, and the receiver, which keeps up or holds it back.
            let can = (self.rate)(time) * STEP;
            let sent = f64::min(can, queue);
            queue -= sent;
            if waiting.turns(queue as u64) && controller.rate().is_none() {
                seen = Observed { idle: seen.idle, ..Observed::default() };
                waiting.start();
            }
            waiting.note(queue as u64);
            seen.delivered += sent as u64;
            let mut budgets = vec![STEP; self.cores[0] as usize];
            loop {
                // What is coded goes on in order, while there is room.
                while queue <= controller.backlog() as f64
                    && let Some(&(effort, pages, residual, ..)) =
                        coding.front().filter(|block| block.3 <= 0.0)
                {
                    coding.pop_front();
                    let bytes = residual * cost(effort).1;
                    controller.block(effort, pages as u64, residual as u64, bytes as u64);
                    seen.used[1] += residual * cost(effort).3;
                    queue += bytes;
                }
                while coding.len() < IN_FLIGHT && left > 0.0 {
                    let next = if residual_of(left) == 1.0 { Next::Left } else { Next::Fresh };
                    let choice = controller.choose(next, queue as u64);
                    let effort = choice.how.effort;
                    log.push((time, effort));
                    let pages = f64::min(choice.pages as f64, left);
                    let residual = pages * residual_of(left);
                    left -= pages;
                    let (_, _, sender, receiver) = cost(effort);
                    let shared = if self.same_machine { receiver + 1e-6 / self.residual } else { 0.0 };
                    let own = residual * sender + pages * 0.6e-6;
                    let needs = own + residual * shared;
                    coding.push_back((effort, pages, residual, needs, own / needs));
                }
                let mut worked = false;
                let unfinished = coding.iter_mut().filter(|block| block.3 > 0.0);
                for (budget, block) in budgets.iter_mut().filter(|budget| **budget > 0.0).zip(unfinished) {
                    let spent = f64::min(*budget, block.3);
                    *budget -= spent;
                    block.3 -= spent;
                    seen.used[0] += spent * block.4;
                    worked = true;
                }
                if !worked {
                    break;
                }
            }
            let budget: f64 = budgets.iter().sum();
            seen.idle[0] = Some(budget / (self.cores[0] * STEP)).map(|now| {
                let before = seen.idle[0].unwrap_or(now);
                before * 0.99 + now * 0.01
            });
            seen.seconds += STEP;
            if seen.seconds >= controller.interval() {
                (seen.backlogged, seen.queued) = (waiting.throughout(), waiting.throughout());
                controller.observe(&seen);
                seen = Observed { idle: seen.idle, ..Observed::default() };
                waiting.start();
            }
        }
        (time, log)
    }

    /// Of an image, or of what brings its pages when it likes.
    fn controller(&self, image: Option<u64>) -> Controller {
        let controller =
            Controller::new(&EFFORTS, self.cores.map(|cores| cores as u32), self.same_machine, IN_FLIGHT);
        match image {
            Some(pages) => controller.of_image(pages, true),
            None => controller,
        }
    }
}

/// Mbit/s to bytes a second.
const MBIT: f64 = 1e6 / 8.0;

#[test]
fn as_good_as_the_best_effort_at_every_speed() {
    let rates: [fn(f64) -> f64; 8] = [
        |_| 20.0 * MBIT,
        |_| 100.0 * MBIT,
        |_| 300.0 * MBIT,
        |_| 1000.0 * MBIT,
        |_| 2500.0 * MBIT,
        |_| 5000.0 * MBIT,
        |_| 10_000.0 * MBIT,
        |_| 40_000.0 * MBIT,
    ];
    for (same_machine, settled_first) in [(false, false), (false, true), (true, false), (true, true)] {
        for rate in rates {
            let world = World { same_machine, settled_first, ..World::new(rate) };
            let pages = 2 << 20;
            let fixed = EFFORTS.map(|effort| world.run(&mut Controller::fixed(effort, IN_FLIGHT), pages).0);
            let best = fixed.into_iter().fold(f64::MAX, f64::min);
            for image in [None, Some(pages)] {
                let (auto, log) = world.run(&mut world.controller(image), pages);
                let share = |effort| log.iter().filter(|(_, used)| *used == effort).count() * 100 / log.len();
                eprintln!(
                    "{:6.0} Mbit/s, same machine {same_machine}, settled first {settled_first}, image {}: {auto:.2} s; fixed {fixed:.2?}; blocks {:?} %",
                    rate(0.0) / MBIT,
                    image.is_some(),
                    EFFORTS.map(share)
                );
                // Where nothing can be learned before residual pages come, or pages come when they like, that takes a tenth of a second.
                let learning = if settled_first || image.is_none() { 0.1 } else { 0.0 };
                assert!(auto <= best * 1.05 + learning, "{auto:.2} s, best fixed {best:.2} s");
            }
        }
    }
}

/// Where two processors and the link take about as long, each page at the effort that its queue asks for is ahead of all pages at any: blocks
/// must be coded before the queue is empty.
#[test]
fn a_mix_is_ahead_where_neither_link_nor_processors_can_wait() {
    let rates: [fn(f64) -> f64; 3] = [|_| 2500.0 * MBIT, |_| 5000.0 * MBIT, |_| 10_000.0 * MBIT];
    // What alpha-work1 took on two processors, and on faster ones.
    for scale in [0.6, 1.0] {
        let costs = [(4100.0, 1.6e-6), (600.0, 17e-6), (540.0, 34e-6), (420.0, 150e-6), (370.0, 1950e-6)];
        let costs = EFFORTS.into_iter().zip(costs);
        let costs = costs.map(|(effort, (bytes, sender))| (effort, bytes, sender * scale, 0.1e-6)).collect();
        let cores = [2.0, 16.0];
        let mut world = World { costs, cores, residual: 0.375, ..World::new(rates[0]) };
        for rate in rates {
            world.rate = rate;
            let pages = 1 << 19;
            let fixed = EFFORTS.map(|effort| world.run(&mut Controller::fixed(effort, IN_FLIGHT), pages).0);
            let best = fixed.into_iter().fold(f64::MAX, f64::min);
            let (auto, _) = world.run(&mut world.controller(Some(pages)), pages);
            eprintln!("{:6.0} Mbit/s, {scale}: {auto:.3} s; fixed {fixed:.3?}", rate(0.0) / MBIT);
            assert!(auto <= best * 0.95, "{auto:.3} s, best fixed {best:.3} s");
        }
    }
}

#[test]
fn a_tenfold_change_is_followed_within_a_second() {
    type Rate = fn(f64) -> f64;
    let changes: [(Rate, Rate); 4] = [
        (|time| if time < 5.0 { 10_000.0 * MBIT } else { 1000.0 * MBIT }, |_| 1000.0 * MBIT),
        (|time| if time < 5.0 { 2000.0 * MBIT } else { 200.0 * MBIT }, |_| 200.0 * MBIT),
        (|time| if time < 5.0 { 1000.0 * MBIT } else { 10_000.0 * MBIT }, |_| 10_000.0 * MBIT),
        (|time| if time < 5.0 { 200.0 * MBIT } else { 2000.0 * MBIT }, |_| 2000.0 * MBIT),
    ];
    let pages = 16 << 20;
    let mean = |rate: Rate, from: f64, to: f64| {
        let world = World::new(rate);
        let (_, log) = world.run(&mut world.controller(Some(pages)), pages);
        let used: Vec<f64> = log
            .iter()
            .filter(|(time, _)| (from..to).contains(time))
            .map(|(_, effort)| f64::from(*effort as u8))
            .collect();
        assert!(!used.is_empty(), "no block between {from} and {to} s");
        used.iter().sum::<f64>() / used.len() as f64
    };
    for (changes, stays) in changes {
        let (before, after) = (mean(changes, 3.5, 5.0), mean(changes, 6.0, 7.5));
        // What a link does that was as it became from the beginning.
        let settled = mean(stays, 3.5, 5.0);
        eprintln!(
            "{} to {}: {before:.2}, {after:.2}, {settled:.2}",
            changes(0.0) / MBIT,
            changes(9.0) / MBIT
        );
        assert!((settled - before).abs() > 0.15, "nothing to follow");
        // Of the way between the two, at least two thirds are made, and not much more than all of it.
        let way = (after - before) / (settled - before);
        assert!((0.66..1.34).contains(&way), "a second after the change: {way:.2} of the way");
    }
}

#[test]
fn a_fixed_effort_stays() {
    let mut controller = Controller::fixed(Effort::Balanced, 3);
    for _ in 0..10 {
        controller.block(Effort::Balanced, 8192, 3000, 2_000_000);
        controller.observe(&Observed { seconds: 0.1, delivered: 1 << 30, ..Observed::default() });
        assert_eq!(controller.choose(Next::Fresh, 0).how.effort, Effort::Balanced);
    }
}

#[test]
fn nonsense_does_no_harm() {
    let mut controller = Controller::new(&Effort::AVAILABLE, [0, 0], true, 0);
    controller.observe(&Observed::default());
    controller.block(Effort::Max, 0, 0, 0);
    controller.block(Effort::Fast, 0, 0, 1 << 40);
    for seconds in [0.0, 1e-9, 1e9] {
        controller.observe(&Observed { seconds, backlogged: true, ..Observed::default() });
        let choice = controller.choose(Next::Fresh, u64::MAX);
        assert!(PAGES.contains(&choice.pages) && controller.backlog() >= MIN_BACKLOG);
    }
}

/// A guest's pages are settled before any residual page comes: kilobytes go by, and the link never has to wait.
#[test]
fn a_link_that_carried_next_to_nothing_is_not_taken_for_a_slow_one() {
    let mut controller = Controller::new(&Effort::AVAILABLE, [2, 2], true, 3);
    let start = controller.plan();
    for _ in 0..5 {
        controller.block(Effort::Fast, 8192, 0, 3000);
        controller.observe(&Observed { seconds: 0.3, delivered: 30_000, ..Observed::default() });
        assert_eq!((controller.rate(), controller.plan()), (None, start));
    }
    // As much as says something of the rate, and still nothing had to wait: no reason to try harder.
    let mut trickle = controller.clone();
    trickle.observe(&Observed { seconds: 0.34, delivered: 1_400_000, ..Observed::default() });
    assert!(trickle.rate().is_some_and(|rate| rate < 1e7), "{:?}", trickle.rate());
    assert!(trickle.plan().high <= start.high && trickle.plan().low <= start.low, "{:?}", trickle.plan());
    // What waits for the link measures it, however little that is.
    let seen = Observed { seconds: 0.1, delivered: 250_000, backlogged: true, ..Observed::default() };
    controller.observe(&seen);
    assert_eq!(controller.rate(), Some(2_500_000.0));
}

/// An image's first blocks find out what the link is: over a fast one nearly all pages go as they are; over a slow one none do, and
/// what is coded before that is known is little.
#[test]
fn the_first_blocks_of_an_image_find_the_link_out() {
    let world = World::new(|_| 40_000.0 * MBIT);
    let pages = 1 << 19;
    let (_, log) = world.run(&mut world.controller(Some(pages)), pages);
    let coded = log.iter().filter(|(_, effort)| *effort != Effort::Store).count();
    assert!(coded <= IN_FLIGHT, "{coded} of {}", log.len());

    let world = World::new(|_| 20.0 * MBIT);
    let (_, log) = world.run(&mut world.controller(Some(1 << 15)), 1 << 15);
    let as_they_are = log.iter().filter(|(_, effort)| *effort == Effort::Store).count();
    assert!(
        (1..64).contains(&as_they_are),
        "{as_they_are} blocks, the least of which has {} pages",
        FIRST_PAGES[0]
    );
}

/// An image of a few MiB is over before much is known.
#[test]
fn a_small_image_is_not_lost_on_finding_the_link_out() {
    let rates: [fn(f64) -> f64; 3] = [|_| 20.0 * MBIT, |_| 100.0 * MBIT, |_| 1000.0 * MBIT];
    for rate in rates {
        let world = World::new(rate);
        let pages = 2048;
        let fixed = EFFORTS.map(|effort| world.run(&mut Controller::fixed(effort, IN_FLIGHT), pages).0);
        let (auto, _) = world.run(&mut world.controller(Some(pages)), pages);
        eprintln!("{:6.0} Mbit/s: {auto:.3} s; fixed {fixed:.3?}", rate(0.0) / MBIT);
        // What would have to be known beforehand is not asked for: that the link is slow enough for efforts that take long.
        let [store, fast, balanced, ..] = fixed;
        let best = store.min(fast).min(balanced);
        assert!(auto <= (best * 1.1).max(best + 0.01), "{auto:.3} s, best fixed {best:.3} s");
    }
}

/// The guest is read where the link is what holds it up, and enough is still to come.
#[test]
fn a_guest_is_read_where_its_bytes_would_take_longer() {
    for (mbit, pages, pays) in [
        (20.0, 1 << 19, true),
        (100.0, 1 << 19, true),
        (10_000.0, 1 << 19, false),
        (40_000.0, 1 << 19, false),
    ] {
        let mut controller = Controller::new(&EFFORTS, [4, 4], false, 5).of_image(pages, true);
        assert!(!controller.choose(Next::Fresh, 0).guest, "nothing is known of the link yet");
        for _ in 0..5 {
            let delivered = (mbit * MBIT * 0.1) as u64;
            controller.observe(&Observed {
                seconds: 0.1,
                delivered,
                backlogged: true,
                ..Observed::default()
            });
        }
        let enough = (controller.rate().unwrap() as u64).min(1 << 26);
        assert!(
            !controller.choose(Next::Fresh, enough / 100).guest,
            "the link would have nothing to do meanwhile"
        );
        assert_eq!(controller.choose(Next::Fresh, enough).guest, pays, "{mbit} Mbit/s");
        controller.block(Effort::Fast, pages, 0, 100);
        assert!(!controller.choose(Next::Fresh, 1 << 20).guest, "nothing is left");
    }
    // Of anything else the caller decides.
    assert!(Controller::fixed(Effort::Fast, 3).choose(Next::Fresh, 0).guest);
}

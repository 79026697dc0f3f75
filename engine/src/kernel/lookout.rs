//! The kernel of a guest whose memory comes in piece by piece, found by what its pages hold.
//!
//! A guest that runs can't be read before all of its memory is there, and by then it was sent. But x86-64 kernels lie at a multiple of
//! 2 MiB, and their code is what the disk's file holds but for what is relocated or patched: a few pages tell the kernel, and the
//! words that were relocated tell how far.

use std::collections::HashMap;
use std::thread::{self, JoinHandle};

use super::cache::KernelCache;
use super::disk::KernelFile;
use super::image::Unslid;
use super::{Disk, Found, Place, files, prepare};
use crate::page::{PAGE_SIZE, Page, PageSet};

/// Pages of 2 MiB: Linux' `CONFIG_PHYSICAL_ALIGN`, and what huge pages need.
const ALIGNED: u64 = 512;
/// Kernels that are laid out at a time: each takes some 60 MB.
const MAX_KERNELS: usize = 4;
/// Pages of a kernel's first 2 MiB that are compared, one of each of as many parts.
const PROBES: u64 = 8;
/// Words that a probe has at least.
const PROBE_WORDS: usize = 256;
/// One in so many of a probe's words must be in the guest, too. What is patched and relocated leaves half of them and more; of another kernel's
/// there are hardly any.
const AGREEING: usize = 4;

/// Waits for a kernel to turn up among pages that come.
#[derive(Debug, Default)]
pub(crate) struct Lookout {
    state: State,
    /// Where a kernel may start, among the pages that came and were not looked at.
    places: Vec<u64>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Preparing(JoinHandle<Vec<LaidOut>>),
    Ready(Vec<LaidOut>),
    Over,
}

/// A kernel that may turn up.
#[derive(Debug)]
struct LaidOut {
    /// Number of its disk among the references.
    disk: u8,
    file: KernelFile,
    unslid: Unslid,
    /// Pages of it that are compared; ascending.
    probes: Vec<u64>,
}

/// What a place turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Not all of it has come.
    Unknown,
    Other,
    /// The kernel, moved so far from where it was linked.
    Kernel(u64),
}

impl Lookout {
    /// Whether [`begin`](Self::begin) has nothing to do any more.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// Lays the kernels of these disks out, which takes a second or so for each that the cache does not have: on a thread of its own.
    pub(crate) fn begin(&mut self, disks: Vec<Disk>, cache: Option<KernelCache>) {
        let work = move || lay_out(&disks, cache.as_ref());
        let spawned = thread::Builder::new().name("mig-kernels".into()).spawn(work);
        self.state = spawned.map_or_else(
            |error| {
                log::warn!("the guest's kernel is not looked for: {error}");
                State::Over
            },
            State::Preparing,
        );
    }

    /// Looks among the pages that have come by now, the last of them `came`; `read` gives them. `is_last` says that no page comes for the first
    /// time any more.
    pub(crate) fn find(
        &mut self,
        came: &PageSet,
        is_last: bool,
        read: &dyn Fn(u64, &mut Page) -> bool,
    ) -> Option<Found> {
        if is_last && matches!(self.state, State::Idle) {
            self.state = State::Over;
        }
        if matches!(self.state, State::Over) {
            return None;
        }
        let aligned = |range: std::ops::Range<u64>| {
            (range.start.next_multiple_of(ALIGNED)..range.end).step_by(ALIGNED as usize)
        };
        self.places.extend(came.ranges().flat_map(aligned));
        if let State::Preparing(thread) = &self.state
            && thread.is_finished()
            && let State::Preparing(thread) = std::mem::take(&mut self.state)
        {
            self.state = thread.join().map_or(State::Over, State::Ready);
        }
        let State::Ready(kernels) = &mut self.state else { return None };
        let newest = came.ranges().last().map_or(0, |range| range.end);
        let mut found = None;
        self.places.retain(|&place| {
            if found.is_some() {
                return false;
            }
            let mut is_unknown = false;
            for (number, kernel) in kernels.iter().enumerate() {
                match kernel.seen_at(place, read) {
                    Seen::Unknown => is_unknown = true,
                    Seen::Other => {}
                    Seen::Kernel(slide) => {
                        found = Some((number, place, slide));
                        return false;
                    }
                }
            }
            // Pages come in order: what is not there by now will not come soon.
            is_unknown && place + ALIGNED > newest
        });
        let found = found.map(|(number, place, slide)| (kernels.swap_remove(number), place, slide));
        if found.is_some() || is_last {
            self.state = State::Over;
        }
        let (LaidOut { disk, file, unslid, .. }, place, slide) = found?;
        let found = Found::new(disk, &file, unslid, slide, Place::Page(place));
        found.inspect_err(|error| log::info!("kernel {}: {error}", file.name)).ok()
    }
}

fn lay_out(disks: &[Disk], cache: Option<&KernelCache>) -> Vec<LaidOut> {
    let files = files(disks).into_iter().take(MAX_KERNELS);
    let laid_out = files.filter_map(|(place, file)| {
        let disk = &disks[place];
        let unslid = prepare(disk.source.as_ref(), &file, cache);
        let unslid = unslid.inspect_err(|error| log::info!("kernel {}: {error}", file.name)).ok()?;
        let part = ALIGNED / PROBES;
        let probes = (0..PROBES).filter_map(|number| {
            (number * part..(number + 1) * part).find(|&page| {
                unslid
                    .pages
                    .get(page)
                    .is_some_and(|bytes| words(bytes).filter(|&word| word != 0).count() >= PROBE_WORDS)
            })
        });
        let probes: Vec<u64> = probes.collect();
        (!probes.is_empty()).then_some(LaidOut { disk: disk.number, file, unslid, probes })
    });
    laid_out.collect()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
}

impl LaidOut {
    /// Whether it is the kernel that starts in this page.
    fn seen_at(&self, place: u64, read: &dyn Fn(u64, &mut Page) -> bool) -> Seen {
        let mut there: HashMap<u64, Box<Page>> = HashMap::new();
        let (mut agreeing, mut of) = (0, 0);
        for &probe in &self.probes {
            let mut page = Box::new([0; PAGE_SIZE]);
            if !read(place + probe, &mut page) {
                return Seen::Unknown;
            }
            let Some(own) = self.unslid.pages.get(probe) else { return Seen::Other };
            let pairs = words(own).zip(words(&page[..])).filter(|(own, _)| *own != 0);
            for (own, there) in pairs {
                of += 1;
                agreeing += usize::from(own == there);
            }
            if agreeing * AGREEING < of {
                return Seen::Other;
            }
            there.insert(probe, page);
        }
        self.slide(&there).map_or(Seen::Other, Seen::Kernel)
    }

    /// How far it was moved: what most relocated values in these pages say.
    fn slide(&self, there: &HashMap<u64, Box<Page>>) -> Option<u64> {
        let mut votes: HashMap<u64, usize> = HashMap::new();
        let mut all = 0;
        for (list, width) in self.unslid.relocations.iter().zip([8, 4]) {
            for entry in list.as_chunks().0 {
                let address = i64::from(i32::from_le_bytes(*entry)) as u64;
                let at = address.wrapping_sub(self.unslid.layout.base);
                let (page, offset) = (at / PAGE_SIZE as u64, (at % PAGE_SIZE as u64) as usize);
                let (Some(new), Some(old)) = (there.get(&page), self.unslid.pages.get(page)) else {
                    continue;
                };
                let value = |bytes: &[u8]| {
                    let mut value = [0; 8];
                    value[..width].copy_from_slice(bytes.get(offset..offset + width)?);
                    Some(u64::from_le_bytes(value))
                };
                let (Some(new), Some(old)) = (value(&new[..]), value(old)) else { continue };
                let mask = u64::MAX >> (64 - 8 * width);
                *votes.entry(new.wrapping_sub(old) & mask).or_default() += 1;
                all += 1;
            }
        }
        match votes.into_iter().max_by_key(|&(_, votes)| votes) {
            Some((slide, votes)) => (votes * 2 > all).then_some(slide),
            // A kernel that can't be moved.
            None => Some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bzimage::BzImage;
    use super::super::elf::tests::file;
    use super::*;
    use crate::reference::BlockSource;

    const BASE: i64 = 0xffff_ffff_8100_0000u64 as i64;
    const SLIDE: u64 = 0x1220_0000;

    /// A kernel of six pages with relocated values in its first one, and that page as a guest has it: moved and patched.
    fn kernel() -> (LaidOut, Page) {
        let at = |offset: i64| (BASE + offset) as i32;
        let unslid =
            Unslid::of_payload(&file(&[&[at(16), at(2000)], &[], &[at(64), at(3001)]]), None).unwrap();
        let mut page = [0; PAGE_SIZE];
        unslid.clone().slid(SLIDE).unwrap().read_blocks(0, &mut page).unwrap();
        // Code that is patched: a byte in every third word.
        page.iter_mut().step_by(24).for_each(|byte| *byte ^= 0x55);
        let file = KernelFile {
            name: "vmlinuz".into(),
            head: BzImage { release: "6.1".into(), payload: 0..1 },
            payload: Vec::new(),
        };
        (LaidOut { disk: 3, file, unslid, probes: vec![0] }, page)
    }

    #[test]
    fn a_kernel_is_found_where_it_lies_once_that_it_has_come() {
        let (kernel, page) = kernel();
        let mut lookout = Lookout { state: State::Ready(vec![kernel]), places: Vec::new() };
        let read = |number: u64, to: &mut Page| {
            // At the wrong place, then nearly at the right one, then there.
            match number {
                512 => *to = [7; PAGE_SIZE],
                1025 | 1536 => *to = page,
                _ => return false,
            }
            true
        };
        let came = |range| PageSet::from_range(range);
        assert!(lookout.find(&came(500..1100), false, &read).is_none());
        // What has not come is waited for, but not for ever.
        assert_eq!(lookout.places, [1024]);
        assert!(lookout.find(&came(1100..1536), false, &read).is_none());
        assert!(lookout.places.is_empty());
        let found = lookout.find(&came(1536..1537), false, &read).expect("the kernel");
        assert_eq!(
            (found.place, found.derivation.slide, found.derivation.parent),
            (Place::Page(1536), SLIDE, 3)
        );
        // One is enough.
        assert!(matches!(lookout.state, State::Over));
        assert!(lookout.find(&came(1536..1537), false, &read).is_none());
    }

    #[test]
    fn what_disagrees_is_another_page() {
        let (kernel, mut page) = kernel();
        let seen = |page: &Page| {
            kernel.seen_at(0, &|_, to| {
                *to = *page;
                true
            })
        };
        assert_eq!(seen(&page), Seen::Kernel(SLIDE));
        // Relocated values that do not agree on a distance.
        let mut moved = page;
        moved[16] ^= 1;
        moved[64] ^= 2;
        assert_eq!(seen(&moved), Seen::Other);
        page[1000..].fill(0xcc);
        assert_eq!(seen(&page), Seen::Other);
        assert_eq!(kernel.seen_at(0, &|_, _| false), Seen::Unknown);
    }

    #[test]
    fn after_the_first_round_there_is_nothing_to_wait_for() {
        let mut lookout = Lookout { state: State::Ready(vec![kernel().0]), places: Vec::new() };
        assert!(lookout.find(&PageSet::from_range(0..9), true, &|_, _| false).is_none());
        assert!(matches!(lookout.state, State::Over));
        let mut idle = Lookout::default();
        assert!(idle.find(&PageSet::from_range(0..9), false, &|_, _| false).is_none() && !idle.has_begun());
        assert!(idle.find(&PageSet::from_range(0..9), true, &|_, _| false).is_none() && idle.has_begun());
    }
}

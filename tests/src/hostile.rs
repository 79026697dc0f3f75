//! Bad streams, one broken rule each, with the error that the engine must give.
//!
//! Each is as good as can be but for its one fault: checksums and digests over it are right unless they are the fault. Both
//! decoders must refuse all of them. `make-golden` keeps the list as files in `golden/bad`.

mod blocks;
mod columns;
mod frames;
mod headers;
mod images;
mod indexes;
mod later;
mod lists;
mod matches;
mod opaque;
mod places;
mod references;
mod sessions;
mod trailers;

use crate::engine::{Given, References};
use crate::handmade::{self, Block, Builder, Head, Random, varint};
use crate::reference::{PAGE, Page, What, identity};
use xxhash_rust::xxh3::xxh3_128;

/// A bad stream.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// What to call it; also its file's name.
    pub name: &'static str,
    /// The bytes.
    pub stream: Vec<u8>,
    /// What is at hand to decode it with.
    pub at_hand: AtHand,
    /// What the engine says of it.
    pub error: &'static str,
    /// Words that the slow decoder's error has, too; none where it may say anything.
    pub slow: &'static str,
}

/// What is at hand to decode a bad stream with: a disk and an older image of [`BLOCKS`] blocks each, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtHand {
    /// Both, as the stream says.
    Whole,
    /// Both, but the last block of each is not what it was.
    Changed,
    /// Both, but without their last blocks.
    Short,
    /// Nothing.
    Nothing,
}

/// Blocks of the disk and of the older image.
pub const BLOCKS: u64 = 6;

/// All of them.
pub fn all() -> Vec<Hostile> {
    let mut all = frames::all();
    all.extend(headers::all());
    all.extend(opaque::all());
    all.extend(blocks::all());
    all.extend(lists::all());
    all.extend(later::all());
    all.extend(places::all());
    all.extend(columns::all());
    all.extend(matches::all());
    all.extend(references::all());
    all.extend(trailers::all());
    all
}

/// Bad sessions: pieces, scripts of QEMU streams, blocks that refer to what was before them. The error is that of
/// `live::Decoder::apply_file`, or of reading the header.
pub fn sessions() -> Vec<Hostile> {
    sessions::all()
}

/// A file of another kind that is refused.
#[derive(Clone, Debug)]
pub struct BadFile {
    /// What to call it; also its file's name.
    pub name: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What the engine says of it, without the path.
    pub error: &'static str,
}

/// Bad memory images: ELF cores, LiME, mapped-ram, and files that are something else.
pub fn images() -> Vec<BadFile> {
    images::all()
}

/// Bad indexes of references.
pub fn indexes() -> Vec<BadFile> {
    indexes::all()
}

/// Bad streams that give the right pages to one who reads them in order, but break what their header promises to one who
/// reads page 4 alone. The error is that of the engine's reader; the slow decoder refuses them altogether.
pub fn found_by_readers() -> Vec<Hostile> {
    blocks::found_by_readers()
}

/// Blocks of the disk, then pages of the older image.
fn reference_bytes() -> [Vec<u8>; 2] {
    let mut random = Random::new(1000);
    [(); 2].map(|()| (0..BLOCKS).flat_map(|_| random.page()).collect())
}

/// What there is to decode with; `None` where nothing is at hand.
pub fn references(at_hand: AtHand) -> Option<References> {
    let [mut disk, mut older] = reference_bytes();
    match at_hand {
        AtHand::Whole => {}
        AtHand::Changed => [&mut disk, &mut older].into_iter().for_each(|bytes| bytes[5 * PAGE] ^= 1),
        AtHand::Short => [&mut disk, &mut older].into_iter().for_each(|bytes| bytes.truncate(5 * PAGE)),
        AtHand::Nothing => return None,
    }
    Some(References { list: vec![Given::Disk(disk), Given::Memory(older)] })
}

fn bad(name: &'static str, stream: Vec<u8>, error: &'static str) -> Hostile {
    Hostile { name, stream, at_hand: AtHand::Whole, error, slow: "" }
}

/// The same, with words of the slow decoder's error, too.
fn refused(name: &'static str, stream: Vec<u8>, slow: &'static str, error: &'static str) -> Hostile {
    Hostile { slow, ..bad(name, stream, error) }
}

const ZERO: Page = [0; PAGE];

/// A page of words that look alike, which zstd makes small.
fn text() -> Page {
    let mut page = ZERO;
    for (number, word) in page.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(format!("line {:3}", number % 90).as_bytes());
    }
    page
}

/// A raw guest of so many pages that refers to both references.
fn head(pages: u64) -> Head {
    let [disk, older] = reference_bytes();
    let mut head = Head::raw(pages);
    head.references = vec![
        (0, identity(&disk), BLOCKS, "the disk".into()),
        (1, identity(&older), BLOCKS, "the older image".into()),
    ];
    head
}

/// A block of zero pages.
fn zeros(first: u64, pages: u64) -> Block {
    Block {
        ranges: vec![(first, pages)],
        runs: vec![(pages, What::Zero)],
        truth: vec![ZERO; pages as usize],
        ..Block::default()
    }
}

/// A block of four pages from page 0 on: two residual ones, a zero one, and a duplicate of page 1.
fn mixed() -> Block {
    let second = {
        let mut page = text();
        page[9] = b'x';
        page
    };
    Block {
        ranges: vec![(0, 4)],
        runs: vec![(2, What::Residual), (1, What::Zero), (1, What::Duplicate { source: 1 })],
        truth: vec![text(), second, ZERO, second],
        classes: vec![1, 1],
        zstd: true,
        ..Block::default()
    }
}

/// A whole stream of one block.
fn of_block(head: Head, block: &Block) -> Vec<u8> {
    let mut builder = Builder::new(head);
    builder.block(block);
    builder.finish()
}

/// A block's meta part, field by field, for those that no [`Block`] can say.
#[derive(Clone)]
struct Meta {
    round: u64,
    /// The page set, from the count on.
    set: Vec<u8>,
    /// What the digest is made from.
    truth: Vec<Page>,
    columns: Vec<u8>,
    /// From the flags on.
    rest: Vec<u8>,
}

impl Meta {
    /// Four zero pages from page 0 on.
    fn zeros() -> Self {
        let columns = handmade::columns(&[(4, What::Zero)], &[], &[0, 1, 2, 3], &[0, 1]);
        Self { round: 0, set: vec![1, 0, 4], truth: vec![ZERO; 4], columns, rest: vec![0, 0] }
    }

    /// One residual page, number 0, of class 1; `rest` is flags, pieces and groups.
    fn residual(rest: Vec<u8>) -> Self {
        let columns = handmade::columns(&[(1, What::Residual)], &[1], &[0], &[0, 1]);
        Self { round: 0, set: vec![1, 0, 1], truth: vec![text()], columns, rest }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut meta = Vec::new();
        varint(&mut meta, self.round);
        meta.extend(&self.set);
        let prints: Vec<u8> = self.truth.iter().flat_map(|page| xxh3_128(page).to_le_bytes()).collect();
        meta.extend(xxh3_128(&prints).to_le_bytes());
        varint(&mut meta, self.columns.len() as u64);
        meta.extend(&self.columns);
        meta.extend(&self.rest);
        meta
    }

    /// A stream of a guest of so many pages that has this block, with this data part, and stops there.
    fn stream(&self, pages: u64, data: &[u8]) -> Vec<u8> {
        let mut builder = Builder::new(head(pages));
        builder.frame(handmade::frame_type::BLOCK, &self.bytes(), data);
        builder.bytes().to_vec()
    }
}

/// The bytes of varints.
fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|&value| number(value)).collect()
}

/// A varint's bytes.
fn number(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(&mut bytes, value);
    bytes
}

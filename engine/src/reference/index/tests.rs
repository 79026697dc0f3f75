//! The index against a naive map, on files that were tampered with, and on sources of every kind.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::reference::{BLOCK_SIZE, BlockSource, DiskRun, Identity, ReferenceError};

fn tie(blocks: u64) -> SourceTie {
    SourceTie::new(Identity(7), blocks, &[FileStamp { len: blocks * 4096, modified: 1 }])
}

/// A fingerprint for a number, as good as random.
fn fingerprint(number: u64) -> u128 {
    xxh3_128(&number.to_le_bytes())
}

fn fingerprints(pages: &[u8], out: &mut [u128]) {
    assert_eq!(pages.len(), out.len() * BLOCK_SIZE);
    for (page, out) in pages.chunks_exact(BLOCK_SIZE).zip(out) {
        *out = xxh3_128(page);
    }
}

/// A disk of holes, zeros, uniform blocks, repeated blocks, mapped and opaque ones.
struct TestDisk(Vec<u8>);

impl TestDisk {
    fn new(blocks: u64) -> Self {
        let mut disk = Self(vec![0; blocks as usize * BLOCK_SIZE]);
        for (number, block) in disk.0.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            let number = number as u64;
            match Self::kind(number) {
                0 | 1 => {}
                2 => block.fill(number as u8),
                3 => block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes())),
                // Contents come again after 3000 blocks, so in a hole's place too.
                _ => {
                    for (at, word) in block.chunks_exact_mut(8).enumerate() {
                        word.copy_from_slice(&(number % 3000 + at as u64 / 500).to_le_bytes());
                    }
                }
            }
        }
        disk
    }

    fn kind(number: u64) -> u64 {
        number / 5 % 11
    }
}

impl BlockSource for TestDisk {
    fn blocks(&self) -> u64 {
        BlockSource::blocks(&self.0[..])
    }

    fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        let count = max.min(5 - block % 5).min(self.blocks().saturating_sub(block));
        match Self::kind(block) {
            0 => DiskRun::Hole(count),
            7..=9 => DiskRun::Opaque(count),
            _ => self.0.run(block, count),
        }
    }

    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        self.0.read_blocks(block, buf)
    }
}

/// What the index of a source should find: fingerprint to first block.
fn naive(source: &TestDisk) -> HashMap<u128, u64> {
    let mut map = HashMap::new();
    for (block, content) in source.0.chunks_exact(BLOCK_SIZE).enumerate() {
        if content.chunks_exact(8).any(|word| word != &content[..8]) {
            map.entry(xxh3_128(content)).or_insert(block as u64);
        }
    }
    map
}

fn in_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn finds_the_first_block_of_each_content_and_nothing_else() {
    let disk = TestDisk::new(20_000);
    let truth = naive(&disk);
    let index = IndexBuilder::new().build(&disk, tie(disk.blocks()), &fingerprints).unwrap();
    assert_eq!(index.distinct(), truth.len() as u64);
    for (&fingerprint, &block) in &truth {
        assert_eq!(index.lookup(fingerprint), Some(block));
    }
    // Exactly the blocks of the naive map, asked block by block.
    for content in disk.0.chunks_exact(BLOCK_SIZE) {
        let fingerprint = xxh3_128(content);
        assert_eq!(index.lookup(fingerprint), truth.get(&fingerprint).copied());
    }
    let absent: Vec<u128> = (0..100_000).map(fingerprint).collect();
    let mut answers = vec![0; absent.len()];
    index.lookup_batch(&absent, &mut answers);
    let false_answers = answers.iter().filter(|&&answer| answer != Index::ABSENT).count();
    assert!(false_answers <= 2, "{false_answers} false answers; one in three million is expected");
}

#[test]
fn batches_answer_as_single_lookups_do() {
    let pairs: Vec<(u128, u64)> = (0..50_000).map(|block| (fingerprint(block), block)).collect();
    let index = IndexBuilder::new().build_from_pairs(pairs.iter().copied(), 50_000, tie(50_000)).unwrap();
    assert_eq!(index.distinct(), 50_000);
    for len in [0, 1, BATCH - 1, BATCH, BATCH + 1, 1000] {
        let asked: Vec<u128> = (49_500..49_500 + len as u64).map(fingerprint).collect();
        let mut answers = vec![1; len];
        index.lookup_batch(&asked, &mut answers);
        for (at, (fingerprint, answer)) in asked.iter().zip(answers).enumerate() {
            assert_eq!(index.lookup(*fingerprint).unwrap_or(Index::ABSENT), answer);
            assert_eq!(answer == Index::ABSENT, at >= 500);
        }
    }
}

#[test]
fn an_entry_takes_less_than_sixteen_bytes() {
    for count in [1_000, 100_000] {
        let pairs = (0..count).map(|block| (fingerprint(block), block));
        let index = IndexBuilder::new().build_from_pairs(pairs, count, tie(count)).unwrap();
        let bytes = (index.file_len() - HEADER_LEN as u64) as f64 / count as f64;
        assert!((11.4..14.0).contains(&bytes), "{bytes} bytes for each of {count}");
    }
}

#[test]
fn an_index_without_entries_finds_nothing() {
    for blocks in [0, 3] {
        let disk = vec![0; blocks * BLOCK_SIZE];
        let index = IndexBuilder::new().build(&disk[..], tie(blocks as u64), &fingerprints).unwrap();
        assert_eq!((index.distinct(), index.lookup(0), index.lookup(u128::MAX)), (0, None, None));
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_where_records_were_kept() {
    let disk = TestDisk::new(30_000);
    let build = || {
        let index = IndexBuilder::new().build(&disk, tie(disk.blocks()), &fingerprints).unwrap();
        (index.header.to_bytes(MAGIC), index.table.bytes().to_vec())
    };
    let one = in_threads(1, build);
    assert!(one == in_threads(4, build));
    // The same records in reverse, through a file.
    let folder = tempfile::tempdir().unwrap();
    let mut spill = spill::Spill::with_limit(1 << 30, folder.path(), 0);
    for (block, content) in disk.0.chunks_exact(BLOCK_SIZE).enumerate().rev() {
        if content.chunks_exact(8).any(|word| word != &content[..8]) {
            spill.extend(&[spill::Record::new(xxh3_128(content), block as u64)]).unwrap();
        }
    }
    let index = IndexBuilder::new().finish(spill, tie(disk.blocks())).unwrap();
    assert!(one == (index.header.to_bytes(MAGIC), index.table.bytes().to_vec()));
}

#[test]
fn crowded_buckets_are_searched_through_and_bounded() {
    // One home for all: the first 256 of them have a place, whichever home that is.
    for hash in [0, u64::MAX / 2, u64::MAX] {
        let key = |block: u64| u128::from(block) << 104 | u128::from(hash);
        let pairs = (0..1000).map(|block| (key(block), block));
        let index = IndexBuilder::new().build_from_pairs(pairs, 1000, tie(1000)).unwrap();
        assert_eq!(index.distinct(), (PROBES * SLOTS) as u64);
        for block in 0..1000 {
            let expected = (block < (PROBES * SLOTS) as u64).then_some(block);
            assert_eq!(index.lookup(key(block)), expected, "{hash:#x} {block}");
        }
    }
}

#[test]
fn blocks_of_one_tag_are_all_candidates() {
    let pairs = [(5u128 << 64 | 9 << 104 | 3, 8), (6 << 64 | 9 << 104 | 4, 2), (9 << 104 | 3, 4)];
    let index = IndexBuilder::new().build_from_pairs(pairs, 3, tie(9)).unwrap();
    assert_eq!(index.candidates(pairs[0].0).collect::<Vec<_>>(), [4, 2]);
    assert_eq!(index.lookup(pairs[1].0), Some(4), "the bytes must be compared");
    assert_eq!(index.distinct(), 2, "equal in 88 bits counts as equal");
}

#[test]
fn a_saved_index_comes_back_and_knows_its_reference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.migidx");
    assert_eq!(Index::default_path(&folder.path().join("disk")), path);
    let disk = TestDisk::new(5_000);
    let built = IndexBuilder::new().build(&disk, tie(disk.blocks()), &fingerprints).unwrap();
    fs::write(&path, b"an older file").unwrap();
    built.save(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    assert_eq!(fs::metadata(&path).unwrap().len(), built.file_len());
    let opened = Index::open(&path, &tie(disk.blocks())).unwrap();
    assert_eq!((&opened.header, opened.table.bytes()), (&built.header, built.table.bytes()));
    for (fingerprint, block) in naive(&disk) {
        assert_eq!(opened.lookup(fingerprint), Some(block));
    }

    let now = tie(disk.blocks());
    let changes = [
        (SourceTie { blocks: 4_999, ..now.clone() }, StaleCause::Blocks),
        (SourceTie { file: FileStamp { len: 1, ..now.file }, ..now.clone() }, StaleCause::Length),
        (SourceTie { file: FileStamp { modified: 2, ..now.file }, ..now.clone() }, StaleCause::Modified),
        (SourceTie { files: 2, ..now.clone() }, StaleCause::OtherFiles),
        (SourceTie { stamps: 1, ..now.clone() }, StaleCause::OtherFiles),
        (SourceTie { identity: Identity(8), ..now }, StaleCause::Identity),
    ];
    for (now, expected) in changes {
        match Index::open(&path, &now) {
            Err(IndexError::Stale { changed, .. }) => assert_eq!(changed, expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(Index::load(&path).unwrap().tie(), &tie(disk.blocks()));
    }
    assert!(matches!(Index::load(&folder.path().join("none")), Err(IndexError::Io { .. })));
}

#[test]
fn a_large_table_is_built_and_saved_through_files() {
    // More than either limit of 32 MiB.
    let count = 3_200_000;
    let folder = tempfile::tempdir().unwrap();
    let builder = IndexBuilder::new().temporary_folder(folder.path());
    let pairs = (0..count).map(|block| (fingerprint(block), block));
    let index = builder.build_from_pairs(pairs, count, tie(count)).unwrap();
    assert!(matches!(index.table, Table::File(..)), "{} bytes", index.file_len());
    assert_eq!(index.distinct(), count);
    let path = folder.path().join("large.migidx");
    index.save(&path).unwrap();
    let opened = Index::open(&path, &tie(count)).unwrap();
    let mut false_answers = 0;
    for block in (0..count).step_by(37) {
        assert!(opened.candidates(fingerprint(block)).any(|candidate| candidate == block), "{block}");
        false_answers += u32::from(opened.lookup(fingerprint(block)) != Some(block));
    }
    assert!(false_answers <= 2, "{false_answers}");
}

#[test]
fn every_flipped_bit_and_every_lost_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.migidx");
    let pairs = (0..20).map(|block| (fingerprint(block), block));
    let index = IndexBuilder::new().build_from_pairs(pairs, 20, tie(20)).unwrap();
    index.save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        matches!(verify(bytes, &path), Err(IndexError::Damaged { .. } | IndexError::Version { .. }))
    };
    assert!(!refused(&whole));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&flipped), "bit {bit}");
    }
    for len in 0..whole.len() {
        assert!(refused(&whole[..len]), "{len} bytes of {}", whole.len());
    }
    for more in [1, 64] {
        assert!(refused(&[&whole[..], &vec![0; more]].concat()), "{more} bytes more");
    }
    // The same from files, for a few of them.
    for bit in [3, 4096 * 8 + 1, whole.len() * 8 - 1] {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        assert!(matches!(Index::open(&path, &tie(20)), Err(IndexError::Damaged { .. })), "bit {bit}");
    }
    for len in [0, 1, 4095, 4096, 4097, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(matches!(Index::open(&path, &tie(20)), Err(IndexError::Damaged { .. })), "{len} bytes");
    }
}

#[test]
fn a_header_that_lies_under_a_good_checksum_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lies.migidx");
    let pairs = (0..20).map(|block| (fingerprint(block), block));
    let index = IndexBuilder::new().build_from_pairs(pairs, 20, tie(20)).unwrap();
    let good = index.header.clone();
    let table = index.table.bytes();
    let load = |header: [u8; HEADER_LEN], table: &[u8]| {
        fs::write(&path, [&header[..], table].concat()).unwrap();
        Index::load(&path)
    };
    assert!(load(good.to_bytes(MAGIC), table).is_ok());
    let tie_of = |blocks| SourceTie { blocks, ..good.tie.clone() };
    let lies = [
        Header { buckets: 0, ..good.clone() },
        Header { buckets: good.buckets + 1, ..good.clone() },
        Header { buckets: u64::MAX, ..good.clone() },
        Header { buckets: (1 << 58) + good.buckets, ..good.clone() },
        Header { distinct: 21, ..good.clone() },
        Header { tie: tie_of(1 << 40), ..good.clone() },
    ];
    for lie in lies {
        assert!(matches!(load(lie.to_bytes(MAGIC), table), Err(IndexError::Damaged { .. })), "{lie:?}");
    }
    // Fields that `Header` can't say otherwise: version, header length, reserved bytes.
    for (at, version) in [(8, true), (12, false), (112, false), (4079, false)] {
        let mut bytes = good.to_bytes(MAGIC);
        bytes[at] += 1;
        let checksum = xxh3_128(&bytes[..HEADER_LEN - 16]);
        bytes[HEADER_LEN - 16..].copy_from_slice(&checksum.to_le_bytes());
        match load(bytes, table) {
            Err(IndexError::Version { found: 2, supported: 1, .. }) => assert!(version),
            Err(IndexError::Damaged { .. }) => assert!(!version),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    // A table of nonsense under good checksums must not lead outside the reference, nor on for ever.
    let nonsense: Vec<u8> = (0..table.len()).map(|at| ((at * 167) >> 3) as u8 | 1).collect();
    let header = Header { table_checksum: table_checksum(&nonsense), ..good };
    let index = load(header.to_bytes(MAGIC), &nonsense).unwrap();
    for number in 0..10_000 {
        assert!(index.candidates(fingerprint(number)).all(|block| block < 20));
    }
}

#[test]
fn the_document_describes_the_bytes() {
    // Written from the head of `header` alone.
    let pairs =
        [(0x0123_4567_89ab_cdef_8000_0000_0000_0000, 5), (0xffff_ffff_0000_0000_0000_0000_0000_0000, 6)];
    let tie = SourceTie::new(Identity(0x1122), 9, &[FileStamp { len: 40_000, modified: -3 }]);
    let index = IndexBuilder::new().build_from_pairs(pairs, 2, tie).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    index.save(&path).unwrap();
    let file = fs::read(path).unwrap();
    let mut expected = b"MIGINDEX\x01\0\0\0\0\x10\0\0\x22\x11".to_vec();
    expected.resize(32, 0);
    for field in [9, 40_000, -3i64 as u64, 1] {
        expected.extend_from_slice(&u64::to_le_bytes(field));
    }
    let stamp = [40_000u64.to_le_bytes(), (-3i64).to_le_bytes()].concat();
    expected.extend_from_slice(&xxh3_128(&stamp).to_le_bytes());
    expected.extend_from_slice(&2u64.to_le_bytes());
    expected.extend_from_slice(&1u64.to_le_bytes());
    let mut table = (0xff_ffffu64 << 40 | 7).to_le_bytes().to_vec();
    table.extend_from_slice(&(0x01_2345u64 << 40 | 6).to_le_bytes());
    table.resize(32 * 64, 0);
    expected.extend_from_slice(&xxh3_128(&xxh3_128(&table).to_le_bytes()).to_le_bytes());
    expected.resize(4080, 0);
    expected.extend_from_slice(&xxh3_128(&expected).to_le_bytes());
    expected.extend_from_slice(&table);
    assert!(file == expected);
}

#[test]
fn progress_is_told_and_building_can_be_stopped() {
    let disk = TestDisk::new(STRETCHES_OF_TEST);
    let told = AtomicU64::new(0);
    let cancel = AtomicBool::new(false);
    let progress = |done: u64, total: u64| {
        assert!(told.swap(done, Ordering::Relaxed) < done && done <= total && total == STRETCHES_OF_TEST);
    };
    let builder = IndexBuilder::new().progress(&progress).cancel(&cancel);
    builder.build(&disk, tie(disk.blocks()), &fingerprints).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), STRETCHES_OF_TEST);

    let hasty = |_, _| cancel.store(true, Ordering::Relaxed);
    let builder = IndexBuilder::new().progress(&hasty).cancel(&cancel);
    let stopped = builder.build(&disk, tie(disk.blocks()), &fingerprints);
    assert!(matches!(stopped, Err(IndexError::Cancelled)), "{stopped:?}");
    let pairs = (0..1000).map(|block| (fingerprint(block), block));
    assert!(matches!(builder.build_from_pairs(pairs, 0, tie(1000)), Err(IndexError::Cancelled)));
}

/// Enough blocks for several calls of the progress callback.
const STRETCHES_OF_TEST: u64 = 40_000;

#[test]
fn a_source_that_fails_stops_the_build() {
    struct Broken;
    impl BlockSource for Broken {
        fn blocks(&self) -> u64 {
            1000
        }
        fn run(&self, _block: u64, max: u64) -> DiskRun<'_> {
            DiskRun::Opaque(max)
        }
        fn read_blocks(&self, block: u64, _buf: &mut [u8]) -> Result<(), ReferenceError> {
            Err(ReferenceError::OutOfRange { block, bytes: 0, blocks: 0 })
        }
    }
    let failed = IndexBuilder::new().build(&Broken, tie(1000), &fingerprints);
    assert!(matches!(failed, Err(IndexError::Source(_))), "{failed:?}");
}

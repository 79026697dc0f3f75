//! `mig demo`: the main job on real memory, in a few seconds and without any files of yours.
//!
//! The program carries 8 MiB cut from a real desktop VM (Debian, XFCE, Firefox, LibreOffice in use), the same pages
//! ten minutes earlier, and the blocks of its disk that those pages equal. It migrates to another process, and is packed
//! into memory; whatever arrives or is unpacked is compared before its line is printed.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use mig_engine::image::WriteAs;
use mig_engine::{
    BlockStats, DecodeLimits, Effort, FileStore, Level, MemoryImage, Packer, Reference, Unpacker,
};
use mig_service::human;
use mig_service::output::print;
use mig_service::references::resolve;

use crate::cli::DemoArgs;
use crate::demo_migrate::Hosts;
use crate::migrate::table;
use crate::pack::kinds_table;
use crate::run::{Run, threads};

const MEMORY: &[u8] = include_bytes!("../../../tests/data/sample.mem.zst");
const OLDER: &[u8] = include_bytes!("../../../tests/data/sample.old.mem.zst");
const DISK: &[u8] = include_bytes!("../../../tests/data/sample.disk.zst");

/// One way of packing, measured.
struct Line {
    name: String,
    bytes: u64,
    pack: Duration,
    unpack: Duration,
}

pub(crate) fn run(args: &DemoArgs, run: &Run) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let unpacked = |name: &str, bytes: &[u8]| -> Result<std::path::PathBuf> {
        let path = folder.path().join(name);
        fs::write(&path, zstd::decode_all(bytes)?)?;
        Ok(path)
    };
    let (memory, older) = (unpacked("guest.raw", MEMORY)?, unpacked("ten-minutes-ago.raw", OLDER)?);
    let disk = unpacked("guest.disk", DISK)?;
    let plain = fs::read(&memory)?;
    let threads = threads(&args.work);
    print(&format!(
        "real desktop memory: {} cut from a 2 GiB Debian guest; {threads} threads, {}; everything unpacked and compared\n\n",
        human::bytes(plain.len() as u64),
        Level::best().name(),
    ))?;
    let mut lines = vec![gzip(&plain)?];
    for level in [1, 3] {
        lines.push(zstd_at(&plain, level, threads)?);
    }
    let mut stats = None;
    for effort in Effort::AVAILABLE {
        let (line, blocks) = mig(&memory, &[&disk], effort, threads, folder.path(), run, &plain)?;
        lines.push(line);
        stats = Some(blocks);
    }
    let references = [disk.as_path(), older.as_path()];
    lines.push(mig(&memory, &references, Effort::Balanced, threads, folder.path(), run, &plain)?.0);
    migrations(&lines[..3], &memory, &references, &Hosts::new(folder.path(), threads)?, run, &plain)?;
    let mut text = format!(
        "packed into memory, and unpacked:\n  {:<44} {:>10} {:>9} {:>11} {:>11}\n",
        "", "bytes", "of gzip", "pack", "unpack"
    );
    let gzip = lines[0].bytes;
    for line in &lines {
        text += &format!(
            "  {:<44} {:>10} {:>9} {:>11} {:>11}\n",
            line.name,
            human::count(line.bytes),
            human::percent(line.bytes, gzip),
            human::rate(plain.len() as u64, line.pack),
            human::rate(plain.len() as u64, line.unpack),
        );
    }
    text += "\nwhat the pages are (balanced, disk as the reference):\n";
    text += &kinds_table(&stats.unwrap_or_default(), true);
    text += "\nSpeeds are of this small sample, start-up of threads and tables included; \
             whole guests: mig pack, mig-bench.\n";
    print(&text)
}

/// A rate to compare by: 100 Mbit/s.
const LINK: u64 = 100_000_000 / 8;

/// Migrates to another process, with the disk at both ends, and with the older snapshot, too.
fn migrations(
    peers: &[Line],
    memory: &Path,
    references: &[&Path],
    hosts: &Hosts<'_>,
    run: &Run,
    plain: &[u8],
) -> Result<()> {
    let mut text =
        String::from("migrated to another process, over TLS on loopback, verified and compared there:\n");
    text +=
        &format!("  {:<44} {:>10} {:>9} {:>11} {:>16}\n", "", "bytes", "of gzip", "time", "at 100 Mbit/s");
    let mut line = |name: &str, bytes: u64, time: Duration| {
        let link = Duration::from_secs_f64(bytes as f64 / LINK as f64);
        text += &format!(
            "  {name:<44} {:>10} {:>9} {:>11} {:>16}\n",
            human::count(bytes),
            human::percent(bytes, peers[0].bytes),
            human::seconds(time),
            human::seconds(link),
        );
    };
    for peer in peers {
        line(&peer.name, peer.bytes, peer.pack + peer.unpack);
    }
    let mut first = None;
    for (count, name) in [(1, "mig send, both have the disk"), (2, "mig send, disk and older snapshot")] {
        let sent = hosts.migrate(memory, &references[..count], run, plain)?;
        line(name, sent.wire_bytes, Duration::from_secs_f64(sent.seconds));
        first.get_or_insert(sent);
    }
    text += "\nwhat was sent when both have the disk:\n";
    text += &first.as_ref().map(table).unwrap_or_default();
    text += "\nTime: from the first connection to the word that the file is verified, on disk and in place; for gzip and zstd\n\
             compressing and decompressing alone. The last column is what the bytes alone take on such a link.\n\n";
    print(&text)
}

fn gzip(plain: &[u8]) -> Result<Line> {
    let (mut packed, mut back) = (Vec::new(), Vec::new());
    let start = Instant::now();
    GzEncoder::new(plain, Compression::new(6)).read_to_end(&mut packed)?;
    let pack = start.elapsed();
    let start = Instant::now();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut back)?;
    ensure!(back == plain, "gzip does not give back what it was given");
    Ok(Line {
        name: "gzip -6 (one thread)".into(),
        bytes: packed.len() as u64,
        pack,
        unpack: start.elapsed(),
    })
}

fn zstd_at(plain: &[u8], level: i32, threads: usize) -> Result<Line> {
    let start = Instant::now();
    let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
    encoder.multithread(threads as u32)?;
    encoder.write_all(plain)?;
    let packed = encoder.finish()?;
    let pack = start.elapsed();
    let start = Instant::now();
    let back = zstd::decode_all(packed.as_slice())?;
    ensure!(back == plain, "zstd does not give back what it was given");
    let name = format!("zstd -{level} -T{threads}");
    Ok(Line { name, bytes: packed.len() as u64, pack, unpack: start.elapsed() })
}

fn mig(
    memory: &Path,
    references: &[&Path],
    effort: Effort,
    threads: usize,
    folder: &Path,
    run: &Run,
    plain: &[u8],
) -> Result<(Line, BlockStats)> {
    let image = MemoryImage::open(memory, None)?;
    let mut packer = Packer::new().effort(effort).threads(threads).cancel(run.cancel.clone());
    for path in references {
        let mut reference = Reference::open(path, image.page_count())?;
        reference.build_index(Level::best(), &run.cancel)?;
        packer = packer.reference(reference);
    }
    let mut packed = Vec::new();
    let start = Instant::now();
    let summary = packer.pack(&image, &mut packed)?;
    let pack = start.elapsed();
    let unpacker = Unpacker::new(packed.as_slice(), DecodeLimits::default())?.threads(threads);
    let resolved = resolve(unpacker.header(), references)?;
    let file = tempfile::tempfile_in(folder)?;
    let start = Instant::now();
    let store = FileStore::new(file, image.layout(), WriteAs::Same, folder)?;
    unpacker.unpack(&resolved, &store)?;
    let unpack = start.elapsed();
    let rebuilt = MemoryImage::from_file(store.into_file(), None)?;
    ensure!(rebuilt.map().bytes() == plain, "mig does not give back what it was given");
    let with = if references.len() > 1 { "disk and older snapshot" } else { "disk" };
    let name = format!("mig {effort}, {with} as reference");
    Ok((Line { name, bytes: summary.stream_bytes, pack, unpack }, summary.blocks))
}

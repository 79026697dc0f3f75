//! What the word coder costs beside zstd and copying, on real memory: bytes, and megabytes a second on one thread.
//!
//!     MIG_BENCH_MEMORY=guest.raw cargo bench -p mig-engine --bench word_coder
//!
//! It takes stretches of 16 pages, evenly spread, of the memory image that `MIG_BENCH_MEMORY` names (without it, of the
//! repository's sample), and of these the words that
//! are not 0: 16 MiB of them at most, much like a group of residual pages. They are coded as one piece. Each figure is the median of
//! `ROUNDS`, with the smallest and the largest; the coders take turns, and what they decode is compared.

use std::error::Error;
use std::hint::black_box;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use mig_engine::wlz::{self, Encoder, Parse};

const ROUNDS: usize = 3;
const STRETCH: u64 = 16 * 4096;
const MAX: usize = 16 << 20;

/// The repository's own real memory, for when no other is named.
const SAMPLE: &[u8] = include_bytes!("../../tests/data/sample.mem.zst");

fn words(mut file: impl Read + Seek) -> Result<Vec<u8>, Box<dyn Error>> {
    let stretches = file.seek(SeekFrom::End(0))? / STRETCH;
    let step = (stretches / (4 * MAX as u64 / STRETCH)).max(1);
    let (mut out, mut bytes) = (Vec::new(), vec![0; STRETCH as usize]);
    for stretch in (0..stretches).step_by(step as usize) {
        file.seek(SeekFrom::Start(stretch * STRETCH))?;
        file.read_exact(&mut bytes)?;
        let words = bytes.as_chunks::<8>().0.iter().filter(|word| **word != [0; 8]);
        out.extend(words.flatten());
        if out.len() >= MAX {
            break;
        }
    }
    out.truncate(MAX);
    Ok(out)
}

type Decode<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;

/// Something that codes and decodes.
struct Contender<'a> {
    name: &'static str,
    encode: Box<dyn FnMut() -> Vec<u8> + 'a>,
    decode: Decode<'a>,
    coded: usize,
    times: [Vec<Duration>; 2],
}

fn spread(times: &mut [Duration], bytes: usize) -> String {
    times.sort();
    let speed = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    let (max, median, min) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    format!("{:8.1} MB/s ({:.1} to {:.1})", speed(median), speed(min), speed(max))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (path, mut raw) = match std::env::var("MIG_BENCH_MEMORY") {
        Ok(path) => (path.clone(), words(std::fs::File::open(path)?)?),
        Err(_) => ("the sample".to_owned(), words(Cursor::new(zstd::decode_all(SAMPLE)?))?),
    };
    // Once, and a little, where it is run as a test.
    let rounds = if std::env::args().any(|argument| argument == "--bench") {
        ROUNDS
    } else {
        raw.truncate(1 << 19);
        1
    };
    let raw = &raw;
    let words = |name, parse| {
        let mut encoder = Encoder::new(parse);
        let encode = move || {
            let mut out = Vec::new();
            encoder.encode(raw, &mut out);
            out
        };
        let decode = |coded: &[u8]| wlz::decode(coded, raw.len()).expect("what was just coded");
        Contender {
            name,
            encode: Box::new(encode),
            decode: Box::new(decode),
            coded: 0,
            times: Default::default(),
        }
    };
    let zstd = |name, level| Contender {
        name,
        encode: Box::new(move || zstd::bulk::compress(raw, level).expect("zstd")),
        decode: Box::new(|coded: &[u8]| zstd::bulk::decompress(coded, raw.len()).expect("zstd")),
        coded: 0,
        times: Default::default(),
    };
    let mut contenders = vec![
        Contender {
            name: "memcpy",
            encode: Box::new(|| raw.clone()),
            decode: Box::new(<[u8]>::to_vec),
            coded: 0,
            times: Default::default(),
        },
        zstd("zstd -3", 3),
        zstd("zstd -19", 19),
        words("word coder, lazy (dense)", Parse::Lazy),
        words("word coder, optimal (max)", Parse::Optimal),
    ];
    println!("{} bytes of words of {path}", raw.len());
    for _ in 0..rounds {
        for contender in &mut contenders {
            let start = Instant::now();
            let coded = black_box((contender.encode)());
            contender.times[0].push(start.elapsed());
            let start = Instant::now();
            let back = black_box((contender.decode)(&coded));
            contender.times[1].push(start.elapsed());
            assert!(back == *raw, "{}", contender.name);
            contender.coded = coded.len();
        }
    }
    for Contender { name, coded, times: [encode, decode], .. } in &mut contenders {
        let (encode, decode) = (spread(encode, raw.len()), spread(decode, raw.len()));
        println!("{name:26} {coded:9} bytes, codes {encode}, decodes {decode}");
    }
    Ok(())
}

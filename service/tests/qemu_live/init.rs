//! The only program of a small guest: it changes its memory all the time, and says on the console that it is still right.
//!
//! Built as a static program and started by the kernel as `/init`. A table of words is changed at random places, most of
//! them in a small part of it; the sum of all changes is kept beside it. About once a second the table is added up and the
//! two are compared: a page that was lost, late or old anywhere in it shows, then and for ever.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

/// Words of the table: 24 MiB, of which the first 512 KiB are hot.
const WORDS: usize = 3 << 20;
const HOT: usize = 64 << 10;

fn main() {
    if std::env::args().nth(1).is_some() {
        loop {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    // Another process makes the kernel change address spaces often, so that QEMU's emulated processor forgets its translations, and with them
    // which pages it may write to unnoticed: meant against lost writes (see `LostWrites`), of which there were fewer since.
    let _other = std::process::Command::new("/init").arg("sleep").spawn();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Half of it looks like data, a quarter like text, the rest is zero for now.
    let mut table: Vec<u64> = vec![0; WORDS];
    for word in &mut table[..WORDS / 2] {
        *word = random() & 0xffff_00ff;
    }
    for word in &mut table[WORDS / 2..WORDS * 3 / 4] {
        *word = u64::from_le_bytes(*b"memory, ") ^ (random() & 0x0707_0707);
    }
    let mut sum = table.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    let mut tick = 0u64;
    loop {
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            for step in 0..2000 {
                let at = random() as usize % if step % 8 == 0 { WORDS } else { HOT };
                let change = random();
                table[at] = table[at].wrapping_add(change);
                sum = sum.wrapping_add(change);
            }
            // Leaves some time to whoever else runs on this processor.
            std::thread::sleep(Duration::from_millis(5));
        }
        let counted = black_box(&table).iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        tick += 1;
        let verdict = if counted == sum { "right" } else { "WRONG" };
        let mut console = std::io::stdout();
        let _ = writeln!(console, "tick {tick} sum {sum:016x} {verdict}");
        let _ = console.flush();
    }
}

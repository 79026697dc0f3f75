//! Links as contenders see them: something that takes bytes no faster than so many bits a second.
//!
//! A token bucket over a clock: bytes that are written are on the link from when it is free until it has carried them, and a writer
//! waits once more than a socket's buffer holds is on its way. Every byte is copied once, as a socket would. Nothing is received:
//! what a destination does with the bytes is not part of the time.

use std::fmt;
use std::io::{self, IoSlice, Write};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The buffer of a fast link holds what it carries in this time.
const BUFFER: Duration = Duration::from_millis(5);
/// That of a slow one holds this, as a socket's does at least.
const LEAST_BUFFER: f64 = 256.0 * 1024.0;
/// Bytes copied at a time: a socket's memory is used again and again, and stays in the cache.
const PIECE: usize = 128 << 10;

/// What a link carries, in bits a second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Rate(f64);

impl Rate {
    /// Bytes a second.
    pub(crate) fn bytes(self) -> f64 {
        self.0 / 8.0
    }

    /// Bits a second.
    pub(crate) fn bits(self) -> f64 {
        self.0
    }

    /// How long the link is busy with so many bytes.
    pub(crate) fn seconds(self, bytes: u64) -> f64 {
        bytes as f64 / self.bytes()
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `20 Mbit`, `2.5Gbit`: decimal units, a second left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no rate: say it as 20 Mbit or 10 Gbit");
        let split = text.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let unit = match unit.trim().trim_end_matches("/s") {
            "kbit" => 1e3,
            "Mbit" => 1e6,
            "Gbit" => 1e9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let rate = number * unit;
        if (1e3..=1e13).contains(&rate) { Ok(Rate(rate)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            1e9.. => (self.0 / 1e9, "Gbit/s"),
            1e6.. => (self.0 / 1e6, "Mbit/s"),
            _ => (self.0 / 1e3, "kbit/s"),
        };
        f.pad(&format!("{number} {unit}"))
    }
}

/// A link in use. Shared references to it write, too.
#[derive(Debug)]
pub(crate) struct Link {
    rate: Rate,
    buffer: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When it will have carried all that was written.
    free: Instant,
    written: u64,
    socket: Vec<u8>,
}

impl Link {
    pub(crate) fn new(rate: Rate) -> Self {
        let buffer = BUFFER.max(Duration::from_secs_f64(LEAST_BUFFER / rate.bytes()));
        let state = State { free: Instant::now(), written: 0, socket: vec![0; PIECE] };
        Link { rate, buffer, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.lock().written
    }

    /// Bytes that are written and still on their way.
    pub(crate) fn waiting(&self) -> u64 {
        let left = self.lock().free.saturating_duration_since(Instant::now());
        (left.as_secs_f64() * self.rate.bytes()) as u64
    }

    /// Waits until everything has arrived.
    pub(crate) fn drain(&self) {
        let free = self.lock().free;
        thread::sleep(free.saturating_duration_since(Instant::now()));
    }

    fn take(&self, bytes: &[u8]) {
        let full = {
            let mut state = self.lock();
            for piece in bytes.chunks(PIECE) {
                state.socket[..piece.len()].copy_from_slice(piece);
                std::hint::black_box(&state.socket);
            }
            state.written += bytes.len() as u64;
            let start = state.free.max(Instant::now());
            state.free = start + Duration::from_secs_f64(self.rate.seconds(bytes.len() as u64));
            // Reading the clock again: copying took some of the time.
            state.free.saturating_duration_since(Instant::now()).saturating_sub(self.buffer)
        };
        if !full.is_zero() {
            thread::sleep(full);
        }
    }
}

impl Write for &Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        parts.iter().for_each(|part| self.take(part));
        Ok(parts.iter().map(|part| part.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, bits) in
            [("20 Mbit", 20e6), ("2.5Gbit/s", 2.5e9), ("40 Gbit/s", 40e9), ("64 kbit/s", 64e3)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits(), bits, "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for bad in ["", "20", "fast", "20 MB", "-1 Mbit", "0 Mbit", "1e9 Mbit", "1.2.3 Gbit"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    /// The pacing itself is within one per cent, in small and in large writes, of a slow link and of a fast one.
    #[test]
    fn a_link_carries_what_it_says() {
        let bytes = vec![7; 4 << 20];
        for (rate, total) in [("100 Mbit", 4 << 20), ("1 Gbit", 32 << 20), ("10 Gbit", 256 << 20)] {
            let rate: Rate = rate.parse().unwrap();
            for piece in [9000, 1 << 20, 4 << 20] {
                let link = Link::new(rate);
                let start = Instant::now();
                let mut left: usize = total;
                while left > 0 {
                    let now = left.min(piece);
                    (&link).write_all(&bytes[..now]).unwrap();
                    left -= now;
                }
                link.drain();
                let (took, due) = (start.elapsed().as_secs_f64(), rate.seconds(total as u64));
                assert_eq!(link.written(), total as u64);
                // Never faster; slower only if the machine was held up, which a second try would tell.
                assert!(took >= due * 0.99, "{rate}, {piece}: {took} s instead of {due}");
                assert!(took <= due * 1.01 + 0.05, "{rate}, {piece}: {took} s instead of {due}");
            }
        }
    }

    /// Writers wait for a full buffer, and a pause is lost.
    #[test]
    fn a_buffer_is_small_and_time_does_not_add_up() {
        let link = Link::new("80 Mbit".parse().unwrap());
        let start = Instant::now();
        (&link).write_all(&[0; 100 << 10]).unwrap();
        assert!(start.elapsed() < Duration::from_millis(5), "it fits into the buffer");
        assert!(link.waiting() > 50 << 10);
        (&link).write_all(&[0; 1 << 20]).unwrap();
        assert!(start.elapsed() > Duration::from_millis(60), "it does not");
        link.drain();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(link.waiting(), 0);
        let start = Instant::now();
        (&link).write_all(&[0; 1 << 20]).unwrap();
        link.drain();
        assert!(start.elapsed() > Duration::from_millis(100), "as if there had been no pause");
    }
}

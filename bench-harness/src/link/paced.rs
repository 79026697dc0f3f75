//! A token bucket over a clock: bytes that are written are on the link from when it is free until it has carried them, and a writer
//! waits once more than a socket's buffer holds is on its way. Every byte is copied once, as a socket would.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Rate;

/// The buffer of a fast link holds what it carries in this time.
const BUFFER: Duration = Duration::from_millis(5);
/// That of a slow one holds this, as a socket's does at least.
const LEAST_BUFFER: f64 = 256.0 * 1024.0;
/// Bytes copied at a time: a socket's memory is used again and again, and stays in the cache.
const PIECE: usize = 128 << 10;

/// When a link is free, and how long a writer waits for it. It is told the time, so it can be tested on a clock of its own.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    buffer: Duration,
    /// When it will have carried all that was written, since the link's beginning.
    free: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let buffer = BUFFER.max(Duration::from_secs_f64(LEAST_BUFFER / rate.bytes()));
        Self { rate, buffer, free: Duration::ZERO }
    }

    /// Bytes come at this time.
    fn take(&mut self, now: Duration, bytes: u64) {
        self.free = self.free.max(now) + Duration::from_secs_f64(self.rate.seconds(bytes));
    }

    /// For how long a writer has to wait until all bytes but those in the buffer are carried.
    fn full(&self, now: Duration) -> Duration {
        self.busy(now).saturating_sub(self.buffer)
    }

    /// For how long there is something to carry.
    fn busy(&self, now: Duration) -> Duration {
        self.free.saturating_sub(now)
    }
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Paced {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    written: u64,
    socket: Vec<u8>,
}

impl Paced {
    pub(super) fn new(rate: Rate) -> Self {
        let state = State { bucket: Bucket::new(rate), written: 0, socket: vec![0; PIECE] };
        Paced { begun: Instant::now(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn written(&self) -> u64 {
        self.lock().written
    }

    pub(super) fn waiting(&self) -> u64 {
        let state = self.lock();
        let left = state.bucket.busy(self.begun.elapsed());
        (left.as_secs_f64() * state.bucket.rate.bytes()) as u64
    }

    pub(super) fn drain(&self) {
        let left = self.lock().bucket.busy(self.begun.elapsed());
        thread::sleep(left);
    }

    pub(super) fn take(&self, bytes: &[u8]) {
        let full = {
            let mut state = self.lock();
            for piece in bytes.chunks(PIECE) {
                state.socket[..piece.len()].copy_from_slice(piece);
                std::hint::black_box(&state.socket);
            }
            state.written += bytes.len() as u64;
            state.bucket.take(self.begun.elapsed(), bytes.len() as u64);
            // Reading the clock again: others may have held this thread up.
            state.bucket.full(self.begun.elapsed())
        };
        if !full.is_zero() {
            thread::sleep(full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the last byte has arrived, on a clock that nobody holds up, if a writer needs `pause` before each piece.
    fn arrival(rate: Rate, total: u64, piece: u64, pause: Duration) -> Duration {
        let mut bucket = Bucket::new(rate);
        let (mut now, mut left) = (Duration::ZERO, total);
        while left > 0 {
            let bytes = left.min(piece);
            now += pause;
            bucket.take(now, bytes);
            now += bucket.full(now);
            left -= bytes;
        }
        now + bucket.busy(now)
    }

    /// The pacing is exact, in small and in large writes, of a slow link and of a fast one, while the writer is faster.
    #[test]
    fn the_pacing_is_exact() {
        for rate in ["20 Mbit", "100 Mbit", "1 Gbit", "10 Gbit", "40 Gbit"] {
            let rate: Rate = rate.parse().unwrap();
            for piece in [1500, 9000, 1 << 20, 4 << 20] {
                for pause in [0.0, 0.5] {
                    // A writer this fast keeps the buffer from running empty.
                    let carried = Duration::from_secs_f64(rate.seconds(piece));
                    let pause = carried.min(Bucket::new(rate).buffer).mul_f64(pause);
                    // So the link waits for the first piece only, and each is rounded to a nanosecond.
                    let total = (rate.bytes() * 2.0) as u64;
                    let due = 2.0 + pause.as_secs_f64();
                    let took = arrival(rate, total, piece, pause).as_secs_f64();
                    let off = (took - due).abs();
                    let rounding = 1e-9 * (total / piece + 2) as f64;
                    assert!(off <= rounding, "{rate}, {piece}, {pause:?}: {took} s, {due} due");
                }
            }
        }
    }

    /// Writers wait for a full buffer, and a pause is lost.
    #[test]
    fn a_buffer_is_small_and_time_does_not_add_up() {
        let mut bucket = Bucket::new("80 Mbit".parse().unwrap());
        let ms = Duration::from_millis;
        bucket.take(ms(0), 200_000);
        assert_eq!(bucket.busy(ms(0)), ms(20));
        assert_eq!(bucket.full(ms(0)), ms(0), "it fits into the buffer");
        bucket.take(ms(0), 1_000_000);
        assert_eq!(bucket.busy(ms(0)), ms(120));
        assert_eq!(bucket.full(ms(0)), ms(120) - bucket.buffer, "it does not");
        assert!(bucket.buffer < ms(30));
        bucket.take(ms(1000), 1_000_000);
        assert_eq!(bucket.busy(ms(1000)), ms(100), "as if there had been no pause");
    }

    /// The same on the real clock, within one per cent. A busy machine can hold a writer up, but not every time.
    #[test]
    fn a_link_carries_what_it_says() {
        let bytes = vec![7; 1 << 20];
        for (rate, total) in [("100 Mbit", 2 << 20), ("1 Gbit", 16 << 20)] {
            let rate: Rate = rate.parse().unwrap();
            for piece in [9000, 1 << 20] {
                let due = rate.seconds(total as u64);
                let mut best = f64::INFINITY;
                for _ in 0..30 {
                    let link = Paced::new(rate);
                    let start = Instant::now();
                    let mut left: usize = total;
                    while left > 0 {
                        let now = left.min(piece);
                        link.take(&bytes[..now]);
                        left -= now;
                    }
                    link.drain();
                    let took = start.elapsed().as_secs_f64();
                    assert_eq!(link.written(), total as u64);
                    assert_eq!(link.waiting(), 0);
                    assert!(
                        took >= due * 0.999,
                        "{rate}, {piece}: {took} s, {due} due: faster than the link"
                    );
                    best = best.min(took);
                    if best <= due * 1.01 {
                        break;
                    }
                }
                assert!(best <= due * 1.01, "{rate}, {piece}: {best} s at best, {due} due");
            }
        }
    }
}

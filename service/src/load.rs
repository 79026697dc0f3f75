//! What processors do: this process's, and those that nobody uses.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time so far, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of this process, all threads together.
    pub used: u64,
    /// Of the machine, that nobody used; 0 where the system does not say.
    pub idle: u64,
}

/// Kernel ticks a second, as `/proc` counts them: the same on all Linux systems.
const TICKS: u64 = 100;

impl Load {
    /// Until now.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_micros() as u64;
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Load { used, idle: idle_ticks(&stat).unwrap_or(0) * (1_000_000 / TICKS) }
    }
}

/// Idle and waiting for input and output, of all processors together.
fn idle_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let stat = "cpu  10 20 30 400 50 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(idle_ticks(stat), Some(450));
        for bad in ["", "cpu", "cpu  1 2 3", "intr 5"] {
            assert_eq!(idle_ticks(bad), None, "{bad}");
        }
        let before = Load::now();
        let mut sum = 0u64;
        while Load::now().used < before.used + 20_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(Load::now().idle >= before.idle && sum > 0);
    }
}

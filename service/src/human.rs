//! Numbers as people read them.

use std::time::Duration;

/// Bytes in units of 1024, three digits: `153 MiB`, `1.46 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{count} bytes"),
        (_, 100.0..) => format!("{value:.0} {}", UNITS[unit]),
        (_, 10.0..) => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.2} {}", UNITS[unit]),
    }
}

/// A count with separators: `524,288`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A part of a whole: `37.4 %`.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 })
}

/// Bytes over time: `1.53 GB/s`, `820 MB/s`. Decimal, as links and memory are quoted.
pub fn rate(bytes: u64, time: Duration) -> String {
    let per_second = bytes as f64 / time.as_secs_f64().max(1e-9);
    if per_second >= 1e9 {
        format!("{:.2} GB/s", per_second / 1e9)
    } else {
        format!("{:.0} MB/s", per_second / 1e6)
    }
}

/// Seconds: `0.43 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1000), "0.98 KiB");
        assert_eq!(bytes(2 << 30), "2.00 GiB");
        assert_eq!(bytes(153 << 20), "153 MiB");
        assert_eq!(count(524_288), "524,288");
        assert_eq!(count(12), "12");
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(0, 0), "0.0 %");
        assert_eq!(rate(1_530_000_000, Duration::from_secs(1)), "1.53 GB/s");
    }
}

//! Numbers as people read them.

/// Bytes in units of 1024, three digits: `153 MiB`, `1.46 GiB`.
pub(crate) fn bytes(count: u64) -> String {
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
pub(crate) fn count(number: u64) -> String {
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

/// A number with three digits or more: `0.123`, `4.56`, `78.9`, `1234`.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A part of a whole as a percentage: `27.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1000), "0.98 KiB");
        assert_eq!(bytes(64 << 30), "64.0 GiB");
        assert_eq!(count(524_288), "524,288");
        assert_eq!([0.12345, 4.567, 78.91, 1234.5].map(number), ["0.123", "4.57", "78.9", "1234"]);
        assert_eq!(percent(0.2749), "27.5 %");
    }
}

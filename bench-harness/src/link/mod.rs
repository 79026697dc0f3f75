//! Links as contenders see them: something that takes bytes no faster than so many bits a second.
//!
//! A link is paced in this process ([`paced`]), which every machine can do at every rate, or it is a connection over a shaped cable
//! between two network namespaces ([`cable`]), with the kernel's TCP in it. Nothing is done with the bytes at the far end: what a
//! destination does with them is not part of the time.

pub(crate) mod cable;
mod paced;

use std::fmt;
use std::io::{self, IoSlice, Write};
use std::str::FromStr;

use anyhow::Result;
use serde::Deserialize;

use cable::{Cable, Connection};
use paced::Paced;

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

/// A link as suites name it: `100 Mbit`, or `1 Gbit, tc` for a shaped cable.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Way {
    /// What it carries.
    pub(crate) rate: Rate,
    /// By a cable between namespaces, not in this process.
    pub(crate) is_cable: bool,
}

/// What follows the rate of a shaped cable.
const CABLE: &str = ", tc";

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cable = text.strip_suffix(CABLE);
        Ok(Way { rate: cable.unwrap_or(text).parse()?, is_cable: cable.is_some() })
    }
}

impl TryFrom<String> for Way {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", self.rate, if self.is_cable { CABLE } else { "" }))
    }
}

impl Way {
    /// Why there can be no such link here, if there can't.
    pub(crate) fn missing(self) -> Option<String> {
        self.is_cable.then(cable::missing).flatten()
    }

    /// A link that nobody uses yet.
    ///
    /// # Errors
    ///
    /// The cable can't be made.
    pub(crate) fn open(self) -> Result<Link> {
        let carrier = if self.is_cable {
            Carrier::Cable(Connection::over(Cable::new(self.rate)?)?)
        } else {
            Carrier::Paced(Paced::new(self.rate))
        };
        Ok(Link(carrier))
    }
}

/// A link in use. Shared references to it write, too.
#[derive(Debug)]
pub(crate) struct Link(Carrier);

#[derive(Debug)]
enum Carrier {
    Paced(Paced),
    Cable(Connection),
}

impl Link {
    /// A link that is paced in this process.
    pub(crate) fn new(rate: Rate) -> Self {
        Link(Carrier::Paced(Paced::new(rate)))
    }

    /// The cable, for programs that connect themselves.
    pub(crate) fn cable(&self) -> Option<&Cable> {
        match &self.0 {
            Carrier::Paced(_) => None,
            Carrier::Cable(connection) => Some(connection.cable()),
        }
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        match &self.0 {
            Carrier::Paced(paced) => paced.written(),
            Carrier::Cable(connection) => connection.written(),
        }
    }

    /// Bytes that went over it: what was written here, else what programs sent that connected themselves, headers included.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn carried(&self) -> Result<u64> {
        match (self.written(), self.cable()) {
            (0, Some(cable)) => cable.sent(),
            (written, _) => Ok(written),
        }
    }

    /// Bytes that are written and still on their way.
    pub(crate) fn waiting(&self) -> u64 {
        match &self.0 {
            Carrier::Paced(paced) => paced.waiting(),
            Carrier::Cable(connection) => connection.waiting(),
        }
    }

    /// Waits until everything has arrived.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub(crate) fn drain(&self) -> io::Result<()> {
        match &self.0 {
            Carrier::Paced(paced) => {
                paced.drain();
                Ok(())
            }
            Carrier::Cable(connection) => connection.drain(),
        }
    }
}

impl Write for &Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Carrier::Paced(paced) => {
                parts.iter().for_each(|part| paced.take(part));
                Ok(parts.iter().map(|part| part.len()).sum())
            }
            Carrier::Cable(connection) => connection.write(parts),
        }
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

    #[test]
    fn ways_are_read_and_written() {
        let paced: Way = "1 Gbit".parse().unwrap();
        let cable: Way = "1 Gbit, tc".parse().unwrap();
        assert_eq!((paced.is_cable, cable.is_cable, paced.rate), (false, true, cable.rate));
        for way in [paced, cable] {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert!("tc".parse::<Way>().is_err() && "1 Gbit, tcp".parse::<Way>().is_err());
    }
}

//! The first eight bytes each way: is this a MiG at all, and which version do both speak?

use std::ops::RangeInclusive;
use std::time::Instant;

use super::channel::Channel;
use super::error::WireError;

/// The versions that this build speaks: its own, and the one before it. There is only one so far.
pub const VERSIONS: RangeInclusive<u8> = 1..=1;

const MAGIC: [u8; 4] = *b"MiGw";

fn text(versions: &RangeInclusive<u8>) -> String {
    let (oldest, newest) = (versions.start(), versions.end());
    if oldest == newest { format!("{oldest}") } else { format!("{oldest} to {newest}") }
}

/// The newest version that both speak.
fn common(ours: &RangeInclusive<u8>, theirs: &RangeInclusive<u8>) -> Option<u8> {
    let newest = *ours.end().min(theirs.end());
    (newest >= *ours.start().max(theirs.start())).then_some(newest)
}

/// Offers versions and takes the answer.
pub(super) fn offer(channel: &Channel, ours: RangeInclusive<u8>, until: Instant) -> Result<u8, WireError> {
    let [a, b, c, d] = MAGIC;
    channel.write(&[&[a, b, c, d, *ours.start(), *ours.end(), 0, 0]])?;
    let mut answer = [0; 8];
    channel.read_exact(&mut answer, until, "waiting for its version")?;
    if answer[..4] != MAGIC {
        return Err(WireError::Protocol("it answers, but not as a MiG receiver does".into()));
    }
    let theirs = answer[5]..=answer[6];
    match answer[4] {
        version if version != 0 && ours.contains(&version) => Ok(version),
        _ => Err(WireError::Version { ours: text(&ours), theirs: text(&theirs) }),
    }
}

/// Takes an offer and answers it.
pub(super) fn answer(channel: &Channel, ours: RangeInclusive<u8>, until: Instant) -> Result<u8, WireError> {
    let mut offer = [0; 8];
    channel.read_exact(&mut offer, until, "waiting for its first bytes")?;
    if offer[..4] != MAGIC {
        return Err(WireError::Protocol("what it sends first is not MiG's".into()));
    }
    let theirs = offer[4]..=offer[5];
    let chosen = common(&ours, &theirs);
    let [a, b, c, d] = MAGIC;
    channel.write(&[&[a, b, c, d, chosen.unwrap_or(0), *ours.start(), *ours.end(), 0]])?;
    chosen.ok_or_else(|| WireError::Version { ours: text(&ours), theirs: text(&theirs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_understand_each_other() {
        assert_eq!(common(&(1..=2), &(2..=3)), Some(2));
        assert_eq!(common(&(2..=3), &(1..=2)), Some(2));
        assert_eq!(common(&(2..=3), &(2..=3)), Some(3));
        assert_eq!(common(&(1..=2), &(3..=4)), None);
        assert_eq!(common(&(3..=4), &(1..=2)), None);
        // Nonsense from outside.
        assert_eq!(common(&(1..=1), &RangeInclusive::new(9, 0)), None);
    }
}

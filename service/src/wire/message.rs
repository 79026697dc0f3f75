//! Messages: a head of eight bytes and a body of limited length.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::WireError;

/// Bytes of a message's head.
pub(super) const HEAD: usize = 8;

/// Bytes of a frame that one segment carries; the last one of a frame may carry fewer.
pub const SEGMENT: usize = 1 << 18;

/// What a message is. The numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "docs/protocol.md, section 2, has them in a table")]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Refuse = 3,
    Have = 4,
    Segment = 5,
    Meter = 6,
    Alive = 7,
    Again = 8,
    Complete = 9,
    Cancel = 10,
    Fail = 11,
    Bye = 12,
    Return = 13,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::Hello,
        Kind::Welcome,
        Kind::Refuse,
        Kind::Have,
        Kind::Segment,
        Kind::Meter,
        Kind::Alive,
        Kind::Again,
        Kind::Complete,
        Kind::Cancel,
        Kind::Fail,
        Kind::Bye,
        Kind::Return,
    ];

    fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == id)
    }

    /// Bytes that its body has at most.
    pub fn limit(self) -> usize {
        match self {
            Kind::Have => 1 << 20,
            Kind::Segment => SEGMENT + SegmentHead::LEN,
            Kind::Meter => Meter::LEN,
            Kind::Alive | Kind::Bye => 0,
            _ => 64 << 10,
        }
    }
}

/// A message's head.
pub(super) fn head(kind: Kind, len: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = kind as u8;
    head[4..].copy_from_slice(&(len as u32).to_le_bytes());
    head
}

/// Reads a head; the length is within the limit of the kind.
pub(super) fn parse_head(head: [u8; HEAD]) -> Result<(Kind, usize), WireError> {
    let kind = Kind::from_id(head[0])
        .ok_or_else(|| WireError::Protocol(format!("there are no messages of kind {}", head[0])))?;
    let [_, a, b, c, length @ ..] = head;
    if [a, b, c] != [0; 3] {
        return Err(WireError::Protocol(format!("a {kind:?} message with reserved bytes that are not zero")));
    }
    let len = u32::from_le_bytes(length) as usize;
    if len > kind.limit() {
        let max = kind.limit();
        return Err(WireError::Protocol(format!("a {kind:?} message of {len} bytes; {max} are allowed")));
    }
    Ok((kind, len))
}

/// A whole message in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its body.
    pub body: Vec<u8>,
}

impl Message {
    /// A message with a JSON body.
    pub fn json(kind: Kind, body: &impl Serialize) -> Self {
        // Our own types are plain; a body that can't be written would be an empty one, which the other end refuses.
        Message { kind, body: serde_json::to_vec(body).unwrap_or_default() }
    }

    /// A message without a body.
    pub fn empty(kind: Kind) -> Self {
        Message { kind, body: Vec::new() }
    }

    /// Reads a JSON body.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] for what is not JSON, or not of this shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            WireError::Protocol(format!("a {:?} message that can't be read: {error}", self.kind))
        })
    }

    /// The error for a message that has no place here.
    pub fn unexpected(&self) -> WireError {
        WireError::Protocol(format!("a {:?} message where none belongs", self.kind))
    }
}

/// What a segment is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// The frame's place in the stream.
    pub sequence: u64,
    /// Bytes of the whole frame.
    pub frame_len: u32,
    /// Where the segment starts in the frame: a multiple of [`SEGMENT`].
    pub offset: u32,
    /// Which try of the frame it belongs to.
    pub attempt: u32,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

impl SegmentHead {
    /// Its bytes.
    pub const LEN: usize = 24;

    /// As it is sent.
    pub fn write(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..12].copy_from_slice(&self.frame_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.attempt.to_le_bytes());
        out
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] where the numbers do not fit each other.
    pub fn read(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let [frame_len, offset, attempt, reserved] = [8, 12, 16, 20].map(|at| u32_at(bytes, at));
        let inside = offset < frame_len && (offset as usize).is_multiple_of(SEGMENT);
        if reserved != 0 || !inside {
            return Err(WireError::Protocol(format!(
                "a segment at {offset} of a frame of {frame_len} bytes"
            )));
        }
        Ok(SegmentHead { sequence: u64_at(bytes, 0), frame_len, offset, attempt })
    }

    /// Bytes of the frame that the segment carries.
    pub fn len(&self) -> usize {
        ((self.frame_len - self.offset) as usize).min(SEGMENT)
    }

    /// A segment is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its number within the frame.
    pub fn index(&self) -> usize {
        self.offset as usize / SEGMENT
    }
}

/// How far a receiver is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// All frames below this one are applied and verified.
    pub next: u64,
    /// Bytes of segments that have come.
    pub received: u64,
    /// Processor time that the receiver's process has used, in microseconds.
    pub cpu: u64,
    /// Processor time that nobody on that machine has used, in microseconds; 0 where not known.
    pub idle: u64,
    /// Bytes of frames from there on that are complete and not yet verified, up to the first that is not complete.
    pub waiting: u64,
    /// The receiver's clock, in microseconds since the session began.
    pub time: u64,
}

impl Meter {
    /// Its bytes.
    pub const LEN: usize = 48;

    /// As it is sent.
    pub fn write(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let fields = [self.next, self.received, self.cpu, self.idle, self.waiting, self.time];
        for (to, field) in out.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] for another length.
    pub fn read(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() != Self::LEN {
            return Err(WireError::Protocol(format!("a meter message of {} bytes", bytes.len())));
        }
        let [next, received, cpu, idle, waiting, time] = [0, 8, 16, 24, 32, 40].map(|at| u64_at(bytes, at));
        Ok(Meter { next, received, cpu, idle, waiting, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_round_trip_and_refuse_nonsense() {
        for kind in Kind::ALL {
            assert_eq!(parse_head(head(kind, kind.limit())).unwrap(), (kind, kind.limit()));
            assert!(parse_head(head(kind, kind.limit() + 1)).is_err());
            let mut reserved = head(kind, 0);
            reserved[2] = 1;
            assert!(parse_head(reserved).is_err());
        }
        for id in (14..=255).chain([0]) {
            assert!(parse_head([id, 0, 0, 0, 0, 0, 0, 0]).is_err());
        }
    }

    #[test]
    fn segments_and_meters_round_trip() {
        let segment =
            SegmentHead { sequence: 1 << 40, frame_len: 600_000, offset: 2 * SEGMENT as u32, attempt: 3 };
        assert_eq!(SegmentHead::read(&segment.write()).unwrap(), segment);
        assert_eq!((segment.len(), segment.index()), (600_000 - 2 * SEGMENT, 2));
        for bad in [
            SegmentHead { offset: 3 * SEGMENT as u32, ..segment },
            SegmentHead { offset: 7, ..segment },
            SegmentHead { frame_len: 0, offset: 0, ..segment },
        ] {
            assert!(SegmentHead::read(&bad.write()).is_err(), "{bad:?}");
        }
        let meter = Meter { next: 1, received: 2, cpu: 3, idle: 5, waiting: 4, time: u64::MAX };
        assert_eq!(Meter::read(&meter.write()).unwrap(), meter);
        assert!(Meter::read(&[0; 40]).is_err());
    }
}

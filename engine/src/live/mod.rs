//! Sessions: memory that goes over links that break, from guests that keep changing it.
//!
//! A file stream holds each page once, and whoever reads it has all of it. A session is less orderly: pages come again in
//! later rounds and are coded against the version that was sent last; blocks of different efforts follow one another, as
//! the link asks for; a block that does not verify is asked for again and must then stand alone; and a destination that was
//! interrupted may have most of the pages already.
//!
//! * [`Encoder`] makes frames: of a whole image, or of batches of captured pages in rounds ([`Encoder::batch`]), and ends
//!   with the device state ([`Encoder::piece`]). [`alone`] codes a block again that the destination could not verify.
//! * [`Decoder`] takes the frames in order, verifies and stores what is in them, and asks again for what does not verify.
//! * [`Rounds`] decides which dirty pages are worth sending now, and which keep changing and had better wait; it reports
//!   what a VMM needs to decide when to stop the guest.
//! * [`LastSent`] is what the source remembers of the destination: [`InMemory`] within a limit, or a [`FlatFile`], which is
//!   also a destination's memory, and afterwards a snapshot for the way back.
//!
//! No sockets here: frames are bytes, and whoever carries them is [`Arrivals`] on the other side. Live guest memory never
//! comes in as a slice of the guest: a batch is captured bytes.

mod apply;
mod batch;
mod bits;
mod encoder;
mod flat;
mod frames;
mod past;
mod rounds;

pub(crate) use bits::Bits;

pub use apply::{Applied, Arrival, Arrivals, Decoder, Destination, header_frame, read_header};
pub use encoder::{
    Batched, Choice, Choose, Encoder, Introspection, LateGuest, Next, Setup, Sink, alone, alone_of_batch,
    read_image,
};
pub use flat::FlatFile;
pub use frames::{Have, OutFrame};
pub use past::{InMemory, LastSent};
pub use rounds::{RoundReport, Rounds};

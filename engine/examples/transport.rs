//! A transport of one's own: frames travel over a channel here, over connections elsewhere.
//!
//! `cargo run --release -p mig-engine --example transport -- guest.raw`
//!
//! The sender implements [`FrameWrite`], the receiver [`FrameRead`]; a bounded channel between them is the back-pressure:
//! a slow receiver holds the packer back, and memory stays bounded.

use std::error::Error;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use mig_engine::image::WriteAs;
use mig_engine::{
    DecodeError, DecodeLimits, Effort, FileStore, Frame, FrameRead, FrameType, FrameWrite, MemoryImage,
    Packer, Unpacker,
};

/// Sends each frame as one message.
struct Sender(SyncSender<Vec<u8>>);

impl FrameWrite for Sender {
    fn write_frame(&mut self, _: FrameType, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let frame = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.0.send(frame).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes messages off the channel; the number of a frame is part of what is verified.
struct Frames(Receiver<Vec<u8>>, u64);

impl FrameRead for Frames {
    fn read_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Ok(message) = self.0.recv() else { return Ok(None) };
        self.1 += 1;
        Frame::parse(&message, self.1 - 1).map(Some)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: transport MEMORY")?;
    let image = MemoryImage::open(path.as_ref(), None)?;
    let (sender, receiver) = sync_channel(4);
    thread::scope(|scope| {
        let packing = scope.spawn(|| Packer::new().effort(Effort::Fast).pack(&image, Sender(sender)));
        let unpacker = Unpacker::from_frames(Frames(receiver, 0), DecodeLimits::default())?;
        let store = FileStore::new(tempfile::tempfile()?, image.layout(), WriteAs::Same, Path::new("."))?;
        let received = unpacker.unpack(&[], &store)?;
        let sent = packing.join().map_err(|_| "the packer panicked")??;
        println!("{} pages arrived and verified, {} bytes on the way", received.pages, sent.stream_bytes);
        Ok(())
    })
}

//! What anyone can send to a receiver's port: no panic, no wait without an end, and the next connection is served.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mig_service::session::Inbox;
use mig_service::wire::hello::{Again, Complete, Hello, Refusal, Resume, Welcome};
use mig_service::wire::{Kind, Listener, Message, Meter, SEGMENT, Security, SegmentHead};
use mig_tests::handmade::Random;

const PREAMBLE: [u8; 8] = *b"MiGw\x01\x01\0\0";
const HELLO: &str = r#"{"role":"control","session":"00112233445566778899aabbccddeeff","resume":false,"vm":"a","kind":"image",
    "format":[2],"page_size":4096,"efforts":["fast"],"references":[{"kind":"disk","identity":"00","blocks":5}]}"#;

fn hello(body: &[u8]) -> Vec<u8> {
    [&PREAMBLE[..], &[1, 0, 0, 0], &(body.len() as u32).to_le_bytes(), body].concat()
}

/// Sends bytes and nothing more; gives how long the other end keeps the connection.
fn send(address: SocketAddr, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may have hung up already.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read_to_end(&mut Vec::new());
    started.elapsed()
}

fn damaged(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = b"\"{}[],:0-9e"[random.below(11) as usize],
            2 => drop(bytes.splice(at..at, [b'['; 3])),
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

#[test]
fn a_listener_outlives_any_first_bytes() {
    // A connection's thread that panics would go unseen.
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let listener = Listener::bind("127.0.0.1:0", Security::Insecure, Duration::from_secs(5)).unwrap();
    let address = listener.address().unwrap();
    let listening = listener
        .start(move |accepted| {
            if let Hello::Control(proposal) = &accepted.hello {
                let _ = proposal.check();
            }
            count.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
    let mut random = Random::new(1);
    for case in 0..400u64 {
        let noise: Vec<u8> = (0..random.below(300)).map(|_| random.word() as u8).collect();
        let bytes = match case % 4 {
            0 => noise,
            1 => [&PREAMBLE[..], &noise].concat(),
            2 => hello(&damaged(&mut random, HELLO.as_bytes())),
            _ => damaged(&mut random, &hello(HELLO.as_bytes())),
        };
        let took = send(address, &bytes);
        assert!(took < Duration::from_secs(12), "case {case}: {took:?}");
    }
    // Far deeper than any parser should go, and longer than a hello may be.
    send(address, &hello(&[b'['; 60_000]));
    let long = [&PREAMBLE[..], &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &[b' '; 4096]].concat();
    send(address, &long);
    let before = taken.load(Ordering::Relaxed);
    send(address, &hello(HELLO.as_bytes()));
    assert_eq!(taken.load(Ordering::Relaxed), before + 1, "a good hello is still taken");
    drop(listening);
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}

#[test]
fn messages_of_any_bytes() {
    let mut random = Random::new(2);
    let bodies = [
        HELLO,
        r#"{"format":2,"efforts":["fast"],"references":[true],"window":5,"resume":{"next":3,"complete":[4,5]}}"#,
        r#"{"sequence":18446744073709551615,"attempt":1,"reason":"r"}"#,
        r#"{"code":"busy","message":"m"}"#,
    ];
    let mut good = 0;
    for case in 0..20_000 {
        let body = damaged(&mut random, bodies[case % bodies.len()].as_bytes());
        let message = Message { kind: Kind::Hello, body };
        if let Ok(Hello::Control(proposal)) = message.parse() {
            let _ = proposal.check();
            good += 1;
        }
        let _ = message.parse::<Welcome>();
        let _ = message.parse::<Again>();
        let _ = message.parse::<Complete>();
        let _ = message.parse::<Refusal>();
        let _ = message.parse::<Resume>();
        let _ = Meter::read(&message.body);
    }
    assert!(good > 0, "all were refused");
}

/// Segments that make no sense together: what is held stays within what was promised.
#[test]
fn segments_of_any_numbers() {
    const WINDOW: u64 = 4 << 20;
    const FRAME: u64 = 1 << 20;
    let mut random = Random::new(3);
    let (mut admitted, mut refused) = (0, 0);
    for _ in 0..40 {
        let inbox = Inbox::new(WINDOW, FRAME);
        for _ in 0..200 {
            let mut bytes = [0; SegmentHead::LEN];
            bytes[..8].copy_from_slice(&(random.word() >> (random.below(12) * 5).min(60)).to_le_bytes());
            let len = random.below(3 << 20) as u32 >> random.below(20);
            let offset = random.below(6) as u32 * SEGMENT as u32;
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            bytes[12..16].copy_from_slice(&offset.to_le_bytes());
            bytes[16] = random.below(3) as u8;
            let Ok(segment) = SegmentHead::read(&bytes) else { continue };
            match inbox.admit(&segment) {
                Ok(()) => {
                    admitted += 1;
                    let _ = inbox.put(&segment, vec![0; segment.len()].into_boxed_slice());
                }
                Err(_) => refused += 1,
            }
            let (_, waiting) = inbox.progress();
            assert!(waiting <= WINDOW + 2 * FRAME, "{waiting} bytes are held");
            if random.below(4) == 0 && inbox.resume().1.contains(&0) {
                assert!(inbox.next().is_some_and(|arrival| arrival.frame.is_err()), "no frame is all zeros");
                inbox.expect(0, 1);
            }
        }
        inbox.close();
    }
    assert!(admitted > 100 && refused > 100, "{admitted} and {refused}");
}

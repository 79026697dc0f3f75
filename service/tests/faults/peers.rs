//! Peers that are not who they should be, are of another time, talk nonsense, or nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mig_tests::handmade::Random;
use rcgen::{Issuer, KeyPair};

use crate::hosts::Hosts;
use crate::running::{Running, until};

/// A sender that ends by itself, with this in what it says.
#[track_caller]
fn refused(mut sender: Running, code: i32, words: &str) {
    sender.ends_with(code);
    let messages = sender.messages();
    assert!(messages.contains(words), "{words:?} is not in: {messages}");
}

/// After everything that was tried, the right one gets through.
#[track_caller]
fn still_works(hosts: &Hosts, mut receiver: Running, port: u16, arguments: &str) {
    let mut sender = hosts.send(port, arguments);
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
}

#[test]
fn wrong_certificates() {
    let hosts = Hosts::new();
    // Another CA; and the right one, but for a day that has passed, or is to come.
    hosts.folder.run("keys strange a=127.0.0.1").code(0);
    let read = |name: &str| fs::read_to_string(hosts.path(name)).expect("it was made");
    let key = KeyPair::from_pem(&read("keys/ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("keys/ca.pem"), key).expect("a CA");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    for (name, valid) in [("expired", [now - 2 * hour, now - hour]), ("early", [now + hour, now + 2 * hour])]
    {
        let host = "a=127.0.0.1".parse().expect("a host");
        let (certificate, key) = mig_service::keys::signed(&host, &issuer, valid).expect("it can be made");
        fs::create_dir(hosts.path(name)).expect("room");
        hosts.folder.write(&format!("{name}/cert.pem"), certificate.as_bytes());
        hosts.folder.write(&format!("{name}/key.pem"), key.as_bytes());
        hosts.folder.write(&format!("{name}/ca.pem"), read("keys/ca.pem").as_bytes());
    }
    // Signed by the other CA, though it trusts ours.
    fs::create_dir(hosts.path("half")).expect("room");
    for (name, from) in [("cert.pem", "strange/a"), ("key.pem", "strange/a"), ("ca.pem", "keys")] {
        hosts.folder.write(&format!("half/{name}"), read(&format!("{from}/{name}")).as_bytes());
    }
    let (receiver, port) = hosts.receive("");
    refused(hosts.send(port, "--keys half"), 5, "it does not trust this host's certificate");
    refused(hosts.send(port, "--keys strange/a"), 5, "is not signed by the CA that this host trusts");
    refused(hosts.send(port, "--keys expired"), 5, "has expired");
    refused(hosts.send(port, "--keys early"), 5, "certificate");
    refused(hosts.send(port, "--peer c"), 5, "--peer NAME says which name to expect");
    for words in [
        "is not signed by the CA",
        "does not trust this host's certificate",
        "has expired",
        "is not valid yet",
    ] {
        until(words, || receiver.messages().contains(words).then_some(()));
    }
    // And the receiver's own.
    let (mut other, other_port) = hosts.receive("--keys expired -o other.raw");
    refused(hosts.send(other_port, ""), 5, "its certificate has expired");
    other.kill();
    // Only one peer may.
    let (mut choosy, choosy_port) = hosts.receive("--from c -o choosy.raw");
    refused(hosts.send(choosy_port, ""), 5, "a may not send here");
    choosy.kill();
    still_works(&hosts, receiver, port, "");
}

/// Says something to a receiver without TLS, and gives what it answers until it closes.
fn say(port: u16, what: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(12))).expect("a time limit");
    let mut answer = Vec::new();
    // It may close at any time.
    if socket.write_all(what).is_ok() {
        let _ = socket.read_to_end(&mut answer);
    }
    answer
}

fn message(kind: u8, len: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0], &len.to_le_bytes()[..], body].concat()
}

const PREAMBLE: &[u8] = b"MiGw\x01\x01\0\0";

#[test]
fn versions() {
    let hosts = Hosts::new();
    let (receiver, port) = hosts.receive("--insecure");
    // Of the far future, and one that speaks ours as well.
    assert_eq!(say(port, b"MiGw\x07\x09\0\0"), b"MiGw\0\x01\x01\0");
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    socket.write_all(b"MiGw\x01\x09\0\0").expect("it reads");
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"MiGw\x01\x01\x01\0");
    drop(socket);
    until("the receiver to say so", || {
        receiver.messages().contains("update the older of the two").then_some(())
    });
    let old = stranger(b"MiGw\0\x07\x09\0");
    refused(hosts.send(old, "--insecure"), 5, "speaks protocol versions 7 to 9");
    still_works(&hosts, receiver, port, "--insecure");
}

/// A receiver of another kind, that answers with this.
fn stranger(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut question = [0; 8];
            let _ = socket.read_exact(&mut question).and_then(|()| socket.write_all(answer));
            thread::sleep(Duration::from_millis(200));
        }
    });
    port
}

#[test]
fn nonsense() {
    let hosts = Hosts::new();
    let (receiver, port) = hosts.receive("--insecure");
    let mut random = Random::new(3);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.word() as u8).take(5000).collect();
    let hello = |body: &[u8]| [PREAMBLE, &message(1, body.len() as u32, body)].concat();
    for what in [
        noise.clone(),
        b"GET / HTTP/1.1\r\nHost: there\r\n\r\n".to_vec(),
        [PREAMBLE, &noise].concat(),
        [PREAMBLE, &message(1, u32::MAX, b"{")].concat(),
        [PREAMBLE, &message(200, 0, b"")].concat(),
        [PREAMBLE, &message(5, 24, &[0xff; 24])].concat(),
        hello(b"{}"),
        hello(b"\xff\xfe"),
        hello("[".repeat(60_000).as_bytes()),
        hello(br#"{"role":"data","session":"00000000000000000000000000000000","index":0}"#),
        hello(br#"{"role":"control","session":"00","resume":false,"vm":"../up","kind":"image"}"#),
    ] {
        let start = Instant::now();
        say(port, &what);
        assert!(start.elapsed() < Duration::from_secs(11));
    }
    let (mut with_tls, tls_port) = hosts.receive("-o other.raw");
    say(tls_port, &noise);
    until("the receiver to say so", || with_tls.messages().contains("does not speak TLS").then_some(()));
    with_tls.kill();
    still_works(&hosts, receiver, port, "--insecure");
    // The other way round.
    let http = stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    refused(hosts.send(http, "--insecure"), 5, "does not keep to the protocol");
    let empty = stranger(b"MiGw\x01\x01\x01\0\x02\0\0\0\x02\0\0\0{}");
    refused(hosts.send(empty, "--insecure"), 5, "does not keep to the protocol");
    let noisy = stranger(b"MiGw\x01\x01\x01\0and now for something completely different");
    refused(hosts.send(noisy, "--insecure"), 5, "does not keep to the protocol");
}

/// 300 connections that say nothing: those who mean it get through at once.
#[test]
fn silence() {
    let hosts = Hosts::new();
    let (receiver, port) = hosts.receive("");
    let silent: Vec<TcpStream> = std::iter::repeat_with(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
        .take(300)
        .collect::<Result<_, _>>()
        .expect("connections");
    still_works(&hosts, receiver, port, "");
    drop(silent);
}

//! The handshake's words: what a sender proposes and what a receiver answers. JSON, so that either side may know more.

use serde::{Deserialize, Serialize};

use mig_engine::{PAGE_SIZE, ReferenceKind, ReferenceNeed};

use super::error::{Code, WireError};

/// Bytes of the longest name of a VM.
const MAX_NAME: usize = 128;

/// The first message on a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "there is one of them for each connection")]
pub enum Hello {
    /// The connection that speaks both ways.
    Control(Proposal),
    /// A connection for segments.
    Data {
        /// The session that it belongs to.
        session: String,
        /// Its number among the session's.
        index: u32,
    },
}

/// What kind of migration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A memory image file.
    Image,
    /// A QEMU migration stream.
    Qemu,
    /// Pages of a VMM that embeds the engine.
    Live,
}

/// A control connection's hello.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// 32 hex digits.
    pub session: String,
    /// Whether the session exists already.
    pub resume: bool,
    /// The VM's name.
    pub vm: String,
    /// What is sent.
    pub kind: Content,
    /// Versions of the stream format that the sender can write.
    pub format: Vec<u8>,
    /// Always 4096.
    pub page_size: u64,
    /// Guest pages, 0 where not known.
    #[serde(default)]
    pub pages: u64,
    /// Bytes of the image's file, 0 where not known.
    #[serde(default)]
    pub bytes: u64,
    /// Names of efforts that may be used.
    pub efforts: Vec<String>,
    /// What the sender could refer to.
    #[serde(default)]
    pub references: Vec<Offered>,
    /// The sender's host.
    #[serde(default)]
    pub host: Machine,
    /// Program and version.
    #[serde(default)]
    pub agent: String,
}

/// A reference that the sender has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// `disk` or `memory`.
    pub kind: String,
    /// 32 hex digits.
    pub identity: String,
    /// Its length in 4096-byte blocks.
    pub blocks: u64,
    /// For messages.
    #[serde(default)]
    pub name: String,
}

/// What a host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// A hash of the kernel's boot id: equal where both ends run on one machine.
    #[serde(default)]
    pub boot: String,
    /// Processors.
    #[serde(default)]
    pub cores: u32,
}

/// The answer to a control connection's hello. For a data connection all fields are as they are by default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Welcome {
    /// The version of the stream format that is to be used.
    pub format: u8,
    /// Those of the sender's efforts that the receiver can decode.
    pub efforts: Vec<String>,
    /// For each of the sender's references, whether it may be used.
    pub references: Vec<bool>,
    /// The most pages that a block may hold.
    pub block_pages: u64,
    /// Bytes of unverified frames that the receiver holds at most.
    pub window: u64,
    /// Data connections that the receiver takes at most.
    pub connections: u32,
    /// Whether it takes a reference that comes late.
    pub late_reference: bool,
    /// Whether it knows blocks with words that moved against their base.
    pub moved_words: bool,
    /// Whether a have message follows.
    pub have: bool,
    /// For a session that goes on.
    pub resume: Option<Resume>,
    /// The receiver's host.
    pub host: Machine,
    /// Program and version.
    pub agent: String,
}

/// Where a session goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// All frames below this one are verified.
    pub next: u64,
    /// Frames behind it that are there completely.
    pub complete: Vec<u64>,
}

/// Why not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
}

/// Asks for a frame again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Again {
    /// The frame.
    pub sequence: u64,
    /// The number that the next attempt must have.
    pub attempt: u32,
    /// What was wrong with it.
    pub reason: String,
}

/// Says that everything is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// Pages that were verified.
    pub pages: u64,
    /// Bytes of frames that were received.
    pub bytes: u64,
    /// Anything that the sender's user should know.
    #[serde(default)]
    pub message: String,
}

/// Somebody stopped it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancelled {
    /// In words.
    pub reason: String,
}

impl Refusal {
    /// With these words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }
}

impl From<Refusal> for WireError {
    fn from(Refusal { code, message }: Refusal) -> Self {
        WireError::Refused { code, message }
    }
}

/// This program's name and version.
pub fn agent() -> String {
    format!("mig {}", env!("CARGO_PKG_VERSION"))
}

/// An identity as 32 hex digits.
pub fn hex(identity: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_le_bytes(*identity))
}

/// 32 hex digits as an identity.
pub fn from_hex(text: &str) -> Option<[u8; 16]> {
    let right = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| right).map(u128::to_le_bytes)
}

/// A new session's id. Unguessable, though nothing depends on that: certificates do the proving.
///
/// # Errors
///
/// [`WireError::Io`] if the system has no random numbers.
pub fn new_session() -> Result<String, WireError> {
    let mut bytes = [0; 16];
    let random = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    random.map_err(|source| WireError::Io { what: "asking for random numbers", source })?;
    Ok(hex(&bytes))
}

/// Whether a VM's name is one: 1 to 128 letters, digits, `.`, `_`, `-`, not starting with `.`.
pub fn is_vm_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.')
}

impl Machine {
    /// This host.
    pub fn here() -> Self {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = if boot.is_empty() {
            String::new()
        } else {
            hex(&xxhash_rust::xxh3::xxh3_128(&boot).to_le_bytes())
        };
        Machine { boot, cores: mig_engine::default_threads() as u32 }
    }

    /// Whether this is the same machine as another, as far as either knows.
    pub fn is_same(&self, other: &Machine) -> bool {
        !self.boot.is_empty() && self.boot == other.boot
    }
}

impl Offered {
    /// What a stream's header says of a reference, for the handshake.
    pub fn new(need: &ReferenceNeed) -> Self {
        Offered {
            kind: need.kind.name().into(),
            identity: hex(&need.identity),
            blocks: need.blocks,
            name: need.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        }
    }

    /// Whether a reference is the one that is meant.
    pub fn fits(&self, need: &ReferenceNeed) -> bool {
        self.blocks == need.blocks && from_hex(&self.identity) == Some(need.identity)
    }

    /// What it is.
    pub fn kind(&self) -> Option<ReferenceKind> {
        [ReferenceKind::Disk, ReferenceKind::Memory].into_iter().find(|kind| kind.name() == self.kind)
    }
}

impl Proposal {
    /// Checks what no receiver would take, whatever else it does.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn check(&self) -> Result<(), Refusal> {
        let refuse = |code, message: &str| Err(Refusal::new(code, message));
        if from_hex(&self.session).is_none() {
            return refuse(Code::Protocol, "a session is named by 32 hex digits");
        }
        if !is_vm_name(&self.vm) {
            return refuse(Code::Protocol, "a VM's name is 1 to 128 letters, digits, '.', '_' and '-'");
        }
        if self.page_size != PAGE_SIZE as u64 {
            let message = format!("pages of {} bytes; this receiver knows 4096", self.page_size);
            return Err(Refusal::new(Code::Version, message));
        }
        if !self.format.contains(&mig_engine::VERSION) {
            let message = format!(
                "the sender writes stream format {:?}, this receiver reads {}",
                self.format,
                mig_engine::VERSION
            );
            return Err(Refusal::new(Code::Version, message));
        }
        if self.references.len() > 64 {
            return refuse(Code::Protocol, "more than 64 references");
        }
        // They are shown to people, and written to logs.
        let mut shown = self.references.iter().map(|offered| &offered.name).chain([&self.agent]);
        if shown.any(|text| text.chars().any(char::is_control)) {
            return refuse(Code::Protocol, "a name with control characters");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for good in ["a", "alpha-work1", "web_01.example", &"x".repeat(128)] {
            assert!(is_vm_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\0", &"x".repeat(129)] {
            assert!(!is_vm_name(bad), "{bad:?}");
        }
        let identity = [7; 16];
        assert_eq!(from_hex(&hex(&identity)), Some(identity));
        for bad in ["", "7", &"g".repeat(32), &format!("+{}", "1".repeat(31))] {
            assert_eq!(from_hex(bad), None, "{bad:?}");
        }
        assert_ne!(new_session().unwrap(), new_session().unwrap());
        assert!(Machine::here().is_same(&Machine::here()));
        assert!(!Machine::default().is_same(&Machine::default()), "nothing known is not the same");
    }

    #[test]
    fn words_of_a_newer_peer_are_passed_over() {
        let text = r#"{"role":"data","session":"s","index":3,"colour":"green"}"#;
        assert!(matches!(serde_json::from_str(text), Ok(Hello::Data { index: 3, .. })));
        let welcome: Welcome = serde_json::from_str(r#"{"window":5,"later":[1]}"#).unwrap();
        assert_eq!((welcome.window, welcome.resume), (5, None));
        let refusal: Refusal = serde_json::from_str(r#"{"code":"of-the-future","message":"m"}"#).unwrap();
        assert_eq!(refusal.code, Code::Internal);
        assert_eq!(Code::UnknownSession.name(), "unknown-session");
    }
}

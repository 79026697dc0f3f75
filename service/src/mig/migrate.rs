//! What `mig send` and `mig receive` have in common: arguments made into settings, progress, the table at the end.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use mig_service::events::{Event, ProgressEvent, Summary};
use mig_service::human;
use mig_service::output::print;
use mig_service::problem::Problem;
use mig_service::session::Limits;
use mig_service::wire::{Identity, Security};

use crate::cli::LinkArgs;

impl LinkArgs {
    /// How connections are protected.
    pub(crate) fn security(&self) -> Result<Security> {
        match (&self.keys, self.insecure) {
            (Some(folder), _) => Ok(Security::Tls(Identity::from_folder(folder)?)),
            (None, true) => Ok(Security::Insecure),
            (None, false) => {
                let text = "--keys FOLDER is needed (`mig keys` makes one), or --insecure on loopback";
                Err(Problem::Usage(text.into()).into())
            }
        }
    }

    /// What a session may use.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections: self.connections.map_or_else(default_connections, u32::from),
            retry: Duration::from_secs(self.retry.into()),
            silence: self.silence(),
        }
    }

    pub(crate) fn silence(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// By processor, within reason: a connection each, for TLS to be done on all of them.
fn default_connections() -> u32 {
    (mig_engine::default_threads() as u32).clamp(1, 16)
}

/// The name of the VM in a file, where the user gives none.
pub(crate) fn vm_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .skip_while(|c| *c == '.')
        .take(128)
        .collect();
    if name.is_empty() { "vm".into() } else { name }
}

/// Shows what happens: as lines of JSON for programs, or as a bar and messages for people.
#[derive(Debug)]
pub(crate) struct Show {
    json: bool,
    bar: ProgressBar,
    what: &'static str,
}

impl Show {
    pub(crate) fn new(what: &'static str, json: bool) -> Self {
        use std::io::IsTerminal;
        let terminal = std::io::stderr().is_terminal() && !json;
        let bar = if terminal { ProgressBar::no_length() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Show { json, bar, what }
    }

    pub(crate) fn event(&self, event: &Event) {
        if self.json {
            if let Ok(line) = serde_json::to_string(event) {
                // A reader that went away is no reason to stop a migration.
                let _ = print(&(line + "\n"));
            }
            return;
        }
        let say = |text: String| self.bar.suspend(|| eprintln!("{text}"));
        match event {
            Event::Progress(progress) => self.progress(progress),
            Event::Connected { peer, references, unused, .. } => {
                let mut text = format!("{} with {peer}", self.what);
                if !references.is_empty() {
                    text += &format!("; both have {}", references.join(", "));
                }
                if !unused.is_empty() {
                    text += &format!("; not used, as only one has it: {}", unused.join(", "));
                }
                say(text);
            }
            Event::Broken { message } => say(format!("the link broke: {message}; connecting again")),
            Event::Resumed => say("the link is there again".into()),
            Event::Again { sequence, reason } => say(format!("frame {sequence} is sent again: {reason}")),
            Event::Round { round, dirty, sent, unchanged, held, bytes, downtime_ms } => say(format!(
                "round {round}: {dirty} dirty pages, {sent} sent, {unchanged} unchanged, {held} held back; {}, downtime about {downtime_ms} ms",
                human::bytes(*bytes)
            )),
            Event::Waiting { reason } => say(format!("waiting {reason}")),
            Event::Warning { message } => say(format!("warning: {message}")),
            Event::Done(summary) => {
                self.bar.finish_and_clear();
                eprint!("{}", table(summary));
            }
            _ => {}
        }
    }

    fn progress(&self, progress: &ProgressEvent) {
        self.bar.set_length(progress.total_pages.max(progress.pages));
        self.bar.set_position(progress.pages);
        let ratio = human::percent(progress.wire_bytes, progress.pages << 12);
        let left = progress.seconds_left.map_or(String::new(), |left| format!(", {left:.0} s left"));
        self.bar.set_message(format!(
            "{}, {} of the memory so far, effort {}{left}",
            human::rate(progress.rate as u64, Duration::from_secs(1)),
            ratio,
            progress.effort
        ));
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// What a migration came to.
pub(crate) fn table(summary: &Summary) -> String {
    let total = summary.pages;
    let mut text = String::new();
    let mut line = |name: &str, pages: u64, bytes: Option<u64>| {
        text += &format!(
            "  {name:<18} {:>12} pages {:>7}  {:>10}\n",
            human::count(pages),
            human::percent(pages, total),
            bytes.map_or(String::new(), human::bytes)
        );
    };
    let kinds = &summary.kinds;
    for (name, pages) in kinds.named().filter(|(name, _)| *name != "residual") {
        line(name, pages, None);
    }
    if summary.kept_pages > 0 {
        line("there already", summary.kept_pages, None);
    }
    let settled = kinds.zero + kinds.uniform + kinds.duplicate + kinds.reference + summary.kept_pages;
    line("settled", settled, Some(summary.settled_bytes));
    for share in &summary.classes {
        line(&share.class, share.pages, Some(share.bytes));
    }
    let classes: u64 = summary.classes.iter().map(|share| share.bytes).sum();
    line("residual", kinds.residual, Some(classes + summary.match_bytes));
    let blocks: u64 = summary.efforts.iter().map(|share| share.blocks).sum();
    let efforts: Vec<String> = summary
        .efforts
        .iter()
        .map(|share| format!("{} {}", share.effort, human::percent(share.blocks, blocks)))
        .collect();
    let time = Duration::from_secs_f64(summary.seconds);
    text += &format!(
        "{} verified and in place: {} on the wire for {} of memory ({}) in {}, {} of memory; blocks: {}",
        human::count(summary.verified),
        human::bytes(summary.wire_bytes),
        human::bytes(total << 12),
        human::percent(summary.wire_bytes, total << 12),
        human::seconds(time),
        human::rate(total << 12, time),
        if efforts.is_empty() { "none".into() } else { efforts.join(", ") },
    );
    if summary.again > 0 {
        text += &format!("; {} sent again", summary.again);
    }
    if !summary.message.is_empty() {
        text += &format!("; {}", summary.message);
    }
    text + "\n"
}

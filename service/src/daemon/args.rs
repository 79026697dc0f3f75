//! `migd`'s command line, here so that `mig man` knows it.

use std::path::PathBuf;

use clap::Parser;

/// Take and start migrations of VMs' memory
///
/// Everything is in one configuration file. SIGTERM lets migrations that run come to their end, within the file's drain_seconds; a
/// second one stops them at once: sources stay as they were, and what came in is kept for another try.
#[derive(Debug, Parser)]
#[command(name = "migd", version)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE.toml", required_unless_present = "openapi")]
    pub config: Option<PathBuf>,
    /// Only check the configuration, with the keys and the disks that it names
    #[arg(long)]
    pub check_config: bool,
    /// Only print what the control API looks like
    #[arg(long)]
    pub openapi: bool,
}

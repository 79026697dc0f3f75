//! Shell completions and man pages, from the command line's own description.

use std::fs;
use std::io::stdout;

use anyhow::{Context, Result};
use clap::CommandFactory;
use mig_service::daemon::Args;

use crate::cli::{Cli, CompletionsArgs, ManArgs};

pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    clap_complete::generate(args.shell, &mut Cli::command(), "mig", &mut stdout());
    Ok(())
}

pub(crate) fn man_pages(args: &ManArgs) -> Result<()> {
    let context = || format!("cannot write man pages to {}", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(context)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).with_context(context)?;
    clap_mangen::generate_to(Args::command(), &args.folder).with_context(context)
}

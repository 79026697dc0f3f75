//! `mig-bench`: how fast and how small, on this machine, beside what a user would pick instead.
//!
//! This file parses the command line, runs one command, and turns its outcome into an exit code. A command measures
//! (`scan`, `pack`, `index`, `peak`, `gpu`), says which goals are met, and prints a table and, if asked to, JSON; `sparse`
//! makes an input. Every figure comes from an answer that was checked; every report says where it was taken.

#![forbid(unsafe_code)]

mod cli;
mod contender;
mod corpus;
mod exit;
mod goal;
#[cfg(feature = "gpu")]
mod gpu;
mod human;
mod index;
mod link;
mod measure;
mod memory;
mod pack;
mod packed;
mod peak;
mod provenance;
mod references;
mod report;
mod run;
mod scan;
mod suite;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let run = run::Run::new();
    let quick = || Cli::parse_from(["mig-bench", "run"]).command;
    let Some(command) = cli.command.or_else(quick) else { return ExitCode::FAILURE };
    let result = match command {
        Command::Run(args) => suite::run(&args, &run),
        Command::List => suite::list(),
        Command::Compare(args) => suite::compare(&args),
        Command::Scan(args) => scan::run(&args, &run),
        Command::Pack(args) => pack::run(&args, &run),
        Command::Index(args) => index::run(&args, &run),
        Command::Peak(args) => peak::run(&args, &run),
        Command::Sparse(args) => corpus::sparse::run(&args, &run),
        #[cfg(feature = "gpu")]
        Command::Gpu(args) => gpu::run(&args, &run),
        Command::PeakChild(args) => peak::child::run(&args),
        Command::WholeChild(args) => suite::whole::child(&args, &run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mig-bench: {error:#}");
            exit::code_of(&error)
        }
    }
}

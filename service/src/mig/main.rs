//! `mig`: packs a desktop VM's memory into a fraction of its size, and back.
//!
//! This file parses the command line, runs one command, and turns its outcome into an exit code.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod demo_migrate;
mod devices;
mod explain;
mod generate;
mod index;
mod inspect;
mod keys;
mod map_svg;
mod migrate;
mod pack;
mod qemu;
mod receive;
mod run;
mod send;
mod unpack;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use mig_service::failure::Failure;

fn main() -> ExitCode {
    // Broken pipes end the process with an error message of ours, not with a panic of println's.
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let run = run::Run::new();
    let result = match cli.command {
        Command::Pack(args) => pack::run(&args, &run),
        Command::Unpack(args) => unpack::run(&args, &run),
        Command::Verify(args) => unpack::verify(&args, &run),
        Command::Index(args) => index::run(&args, &run),
        Command::Inspect(args) => inspect::run(&args, &run),
        Command::Devices(args) => devices::run(&args, &run),
        Command::Send(args) => send::run(&args, &run),
        Command::Receive(args) => receive::run(&args, &run),
        Command::Keys(args) => keys::run(&args),
        Command::Demo(args) => demo::run(&args, &run),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man_pages(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mig: {error:#}");
            ExitCode::from(Failure::of(&error).exit_code())
        }
    }
}

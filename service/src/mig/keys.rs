//! `mig keys`.

use anyhow::Result;
use mig_service::keys::make;
use mig_service::output::print;

use crate::cli::KeysArgs;

pub(crate) fn run(args: &KeysArgs) -> Result<()> {
    let folders = make(&args.folder, &args.hosts, args.days)?;
    let mut text = String::new();
    for (host, folder) in args.hosts.iter().zip(folders) {
        text += &format!("{}: copy {} there, and give it as --keys\n", host.name, folder.display());
    }
    text += &format!("keep {} to yourself: it signs further hosts\n", args.folder.join("ca.key").display());
    print(&text)
}

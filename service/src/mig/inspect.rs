//! `mig inspect`.

use std::cmp::Reverse;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};
use mig_engine::guest::{Guest, GuestClass, Space, find_notes};
use mig_engine::inspect::{StreamInfo, classify};
use mig_engine::{Level, MemoryImage, Resolved};
use mig_service::human;
use mig_service::output::{Output, print};
use mig_service::problem::Problem;
use mig_service::references::{self, describe, is_packed};
use mig_service::transfer::guest_sizes;
use serde_json::{Map, Value, json};

use crate::cli::InspectArgs;
use crate::explain;
use crate::map_svg;
use crate::pack::{blocks_json, kinds_table};
use crate::qemu;
use crate::run::{Bar, Run};

pub(crate) fn run(args: &InspectArgs, run: &Run) -> Result<()> {
    let context = || format!("cannot inspect {}", args.file.display());
    if is_packed(&args.file).with_context(context)? {
        if args.svg.is_some() {
            let text = "--svg draws memory images; unpack the file first";
            return Err(Problem::Usage(text.into()).into());
        }
        if args.explain {
            let text = "--explain packs memory images; unpack the file first";
            return Err(Problem::Usage(text.into()).into());
        }
        return packed(args).with_context(context);
    }
    image(args, run).with_context(context)
}

fn image(args: &InspectArgs, run: &Run) -> Result<()> {
    // A stream's memory is copied out, and looked at like an image.
    let stream = qemu::open_stream(&args.file, args.format)?;
    let image = MemoryImage::open(&args.file, args.format)?;
    if args.explain {
        return explain::run(args, &image, run);
    }
    let picture = args.svg.as_deref().map(|path| Output::new(path, true)).transpose()?;
    let mut map = map_svg::Map::new(image.page_count());
    let bar = Bar::new("reading");
    let show = |progress| bar.show(progress);
    let sizes = match &stream {
        Some(stream) => guest_sizes(stream.start()),
        None => vec![image.page_count()],
    };
    let machine = stream.map(|stream| mig_engine::qemu::machine_of(stream.start()));
    let (stats, guest) = run.pool(&args.work)?.install(|| -> Result<_> {
        let references = references::for_packing(&args.references.files, &sizes, &run.cancel, None)?;
        let stats =
            classify(&image, &references, Level::best(), &run.cancel, Some(&show), |kinds| map.add(kinds))?;
        Ok((stats, Guest::read(&image, Some(image.layout()), &find_notes(&image))))
    })?;
    bar.done();
    if let Some(picture) = picture {
        let name = args.file.file_name().unwrap_or(args.file.as_os_str()).to_string_lossy();
        let title = format!("{name}: {} of guest memory", human::bytes(image.page_count() << 12));
        picture.file()?.write_all(map.draw(&title).as_bytes())?;
        picture.finish()?;
    }
    let layout = image.layout();
    if args.json {
        let segments: Vec<_> = layout
            .segments()
            .iter()
            .map(|s| json!({ "file_offset": s.file_offset, "pages": s.pages, "address": s.gpa }))
            .collect();
        let report = json!({
            "format": if machine.is_some() { "qemu" } else { layout.format().name() },
            "machine": machine.as_ref().map(|(machine, _)| machine),
            "ram": machine.as_ref().map(|(_, ram)| ram.iter().map(qemu::block_json).collect::<Vec<_>>()),
            "file_bytes": layout.file_len(),
            "pages": image.page_count(),
            "segments": segments,
            "guest": guest.as_ref().map(guest_json),
            "blocks": blocks_json(&stats),
        });
        return print(&format!("{report:#}\n"));
    }
    let what = match &machine {
        Some((machine, _)) => format!("QEMU migration stream of {machine}"),
        None => format!("{} image", layout.format()),
    };
    let mut text = format!(
        "{}: {what}, {} of guest memory in {} segment{}\n",
        args.file.display(),
        human::bytes(image.page_count() << 12),
        layout.segments().len(),
        if layout.segments().len() == 1 { "" } else { "s" },
    );
    for segment in layout.segments().iter().take(16) {
        let address = segment.gpa.map_or("no address".to_owned(), |gpa| format!("address {gpa:#x}"));
        text += &format!("  {address}: {}\n", human::bytes(segment.pages << 12));
    }
    for block in machine.iter().flat_map(|(_, ram)| ram) {
        let name = String::from_utf8_lossy(&block.name);
        text += &format!("  block {name}: {} pages\n", human::count(block.pages));
    }
    text += &kinds_table(&stats, false);
    text += &match &guest {
        Some(guest) => guest_text(guest),
        None => "no Linux guest that describes itself\n".to_owned(),
    };
    print(&text)
}

/// Processes that are listed.
const PROCESSES: usize = 10;

/// Pages by what the guest uses them for; what has none is left out.
fn uses(guest: &Guest) -> impl Iterator<Item = (&'static str, u64)> {
    GuestClass::ALL.into_iter().filter_map(|class| {
        let pages = guest.classes().iter().filter(|&&of| of == class).count() as u64;
        (pages > 0).then_some((class.name(), pages))
    })
}

/// Processes, the largest first.
fn processes(guest: &Guest) -> Vec<&Space> {
    let mut spaces: Vec<&Space> = guest.spaces().iter().collect();
    spaces.sort_by_key(|space| Reverse(space.pages));
    spaces
}

fn guest_text(guest: &Guest) -> String {
    let mut text = format!("guest: Linux {}\n", guest.release());
    let total = guest.classes().len() as u64;
    for (name, pages) in uses(guest) {
        text +=
            &format!("  {name:<18} {:>12} pages {:>7}\n", human::count(pages), human::percent(pages, total));
    }
    let processes = processes(guest);
    text += &format!("{} processes with memory of their own, the largest\n", processes.len());
    for space in processes.iter().take(PROCESSES) {
        let name = space.name.as_deref().unwrap_or("(no name)");
        text += &format!("  {:>10} {}\n", human::bytes(space.pages << 12), name.escape_debug());
    }
    text
}

fn guest_json(guest: &Guest) -> Value {
    let classes: Map<String, Value> =
        uses(guest).map(|(name, pages)| (name.to_owned(), json!(pages))).collect();
    let processes: Vec<Value> = processes(guest)
        .into_iter()
        .map(|space| json!({ "name": space.name, "pages": space.pages }))
        .collect();
    json!({
        "release": guest.release(),
        "build_id": guest.build_id(),
        "kernel_offset": guest.kernel_offset(),
        "classes": classes,
        "processes": processes,
    })
}

fn packed(args: &InspectArgs) -> Result<()> {
    let info = StreamInfo::read(BufReader::with_capacity(1 << 20, File::open(&args.file)?))?;
    let header = &info.header;
    let paths: Vec<&Path> = args.references.files.iter().map(AsRef::as_ref).collect();
    let resolved = Resolved::find(header, &paths).map_err(|(at, error)| {
        anyhow::Error::new(error).context(format!("cannot use {} as a reference", paths[at].display()))
    })?;
    let present = |index: usize| resolved.references.get(index).is_some_and(Option::is_some);
    if args.json {
        let references: Vec<_> = header
            .references
            .iter()
            .enumerate()
            .map(|(index, need)| {
                json!({
                    "kind": need.kind.name(),
                    "name": need.name,
                    "blocks": need.blocks,
                    "identity": need.identity.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>(),
                    "pages": info.reference_pages[index],
                    "present": present(index),
                })
            })
            .collect();
        let report = json!({
            "format": header.layout.format().name(),
            "image_bytes": header.layout.file_len(),
            "pages": header.layout.page_count(),
            "effort": header.effort.name(),
            "random_access": header.random_access,
            "complete": info.complete,
            "stream_bytes": info.stream_bytes,
            "opaque_bytes": info.opaque_bytes,
            "block_count": info.block_count,
            "references": references,
            "blocks": blocks_json(&info.blocks),
        });
        return print(&format!("{report:#}\n"));
    }
    let mut text = format!(
        "{}: {} packed from a {} image of {} at effort {}{}{}\n",
        args.file.display(),
        human::bytes(info.stream_bytes),
        header.layout.format(),
        human::bytes(header.layout.file_len()),
        header.effort,
        if header.random_access { ", for random access" } else { "" },
        if info.complete { "" } else { "; CUT: its end is missing" },
    );
    for (index, need) in header.references.iter().enumerate() {
        let pages = human::count(info.reference_pages[index]);
        let at_hand = if present(index) { "at hand" } else { "not given" };
        text += &format!("  needs {}: {pages} pages, {at_hand}\n", describe(need));
    }
    text += &kinds_table(&info.blocks, true);
    print(&text)
}

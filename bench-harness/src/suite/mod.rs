//! `mig-bench run`: corpora, contenders, links and numbers of threads, as a suite says.
//!
//! Of each corpus at each number of threads, every contender first proves itself, which warms it up; then come rounds in which each
//! packs into nothing once, and then, link by link, rounds in which each sends the image over the link. So whatever disturbs the machine
//! for a while meets all of them. Before all that, where a suite asks for it, each runs as a program of its own.

mod checks;
mod compare;
mod file;
mod html;
mod markdown;
mod result;
pub(crate) mod whole;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::{Gpu, Level};

use crate::cli::{Mapping, SuiteArgs};
use crate::contender::{Capture, Chosen, Contender, Named, Subject, captures};
use crate::corpus::{sample_disk, sample_memory, sparse::synthetic};
use crate::exit::Problem;
use crate::goal::Goal;
use crate::link::Way;
use crate::measure::{Cost, Timing};
use crate::pack::result::Image;
use crate::packed::{is_packed, unpacked};
use crate::provenance::Provenance;
use crate::references::{References, warm};
use crate::report::{Report, print};
use crate::run::{Run, Steps};

pub(crate) use compare::run as compare;
use file::{BUILT_IN, BUILT_IN_DISK, BUILT_IN_MEMORY, Corpus, Suite};
use result::{CorpusRun, Line, OnLink, SuiteResult};
use whole::Whole;

/// `mig-bench list`.
pub(crate) fn list() -> Result<()> {
    let mut text = String::new();
    for (name, _) in BUILT_IN {
        let suite = Suite::load(name, None)?;
        text += &format!("{name}: {}\n", suite.about);
        let links: Vec<String> = suite.links.iter().map(Way::to_string).collect();
        let names: Vec<String> = suite.contenders.iter().map(Named::to_string).collect();
        text += &format!("    contenders: {}\n", names.join("; "));
        text += &format!("    links: {}\n", if links.is_empty() { "none".into() } else { links.join(", ") });
        let corpora: Vec<&str> = suite.corpus.iter().map(|corpus| &*corpus.name).collect();
        let corpora = if corpora.is_empty() { "the built-in sample".into() } else { corpora.join(", ") };
        text += &format!("    corpora, unless one is named: {corpora}\n");
    }
    print(&text)
}

pub(crate) fn run(args: &SuiteArgs, run: &Run) -> Result<()> {
    let suite = Suite::load(&args.suite, args.corpora.as_deref())?;
    let provenance = Provenance::now();
    let scratch = tempfile::tempdir_in(args.scratch.folder()).context("cannot make a folder in --scratch")?;
    let gpu = Gpu::open(&args.gpu.choice()).map_err(|error| Problem::Usage(error.to_string()))?;
    let mut result = SuiteResult {
        suite: args.suite.clone(),
        about: suite.about.clone(),
        interrupted: false,
        runs: Vec::new(),
    };
    let mut notes = vec![
        "GB/s are decimal gigabytes of the image's file; medians, with the slowest and the fastest; page cache warm; \
         the image stays mapped, as guest memory is in its VMM; indexes built beforehand"
            .to_owned(),
        "a link takes bytes no faster than it says: in this process, or with \", tc\" over a shaped cable between two namespaces; what a \
         destination does with them is not timed, but for QEMU's, which runs on the same processors"
            .to_owned(),
    ];
    if suite.whole {
        notes.push(
            "whole program: one run in a process of its own, opening its files included; cold: after its files were dropped from the page cache"
                .to_owned(),
        );
    }
    let bench = Bench { suite: &suite, scratch: scratch.path(), gpu: gpu.as_ref(), run };
    let ended = bench.corpora(args, &mut result);
    result.interrupted = matches!(&ended, Err(error) if is_interrupted(error));
    if !result.interrupted {
        ended?;
    }
    let goals: Vec<Goal> = result.runs.iter().flat_map(checks::goals).collect();
    let mut report = Report::new("run", provenance.with_gpu(gpu.as_ref()), result);
    report.notes = notes;
    report.goals = goals;
    report.synthetic = report.result.runs.iter().find_map(|run| run.synthetic.clone());
    if let Some(path) = &args.html {
        html::write(&report, path)?;
    }
    if let Some(path) = &args.markdown {
        markdown::write(&report.result, path)?;
    }
    report.finish(&report.result.describe(), &args.output)?;
    run.check()?;
    Ok(())
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(Problem::Interrupted)))
        || error.chain().any(|cause| matches!(cause.downcast_ref(), Some(mig_engine::EncodeError::Cancelled)))
}

/// What all runs of a suite have in common.
struct Bench<'b> {
    suite: &'b Suite,
    scratch: &'b Path,
    gpu: Option<&'b Gpu>,
    run: &'b Run,
}

/// A contender and what it came to so far.
struct Running {
    name: Named,
    contender: Box<dyn Contender>,
    line: Line,
    costs: Vec<Cost>,
    /// What each run over this link put on it.
    carried: Vec<u64>,
}

impl Bench<'_> {
    fn corpora(&self, args: &SuiteArgs, result: &mut SuiteResult) -> Result<()> {
        for corpus in self.chosen(args)? {
            for &threads in &self.suite.threads {
                let threads = if threads == 0 { args.threads.count() } else { threads.into() };
                self.corpus(&corpus, threads, result).with_context(|| corpus.name.clone())?;
            }
        }
        Ok(())
    }

    /// The command line's image, or the suite's corpora, or the sample.
    fn chosen(&self, args: &SuiteArgs) -> Result<Vec<Corpus>> {
        let file = |path: &Path| -> Result<PathBuf> {
            let built_in = match path.to_str() {
                Some(BUILT_IN_MEMORY) => ("sample.raw", sample_memory()?),
                Some(BUILT_IN_DISK) => ("sample.disk", sample_disk()?),
                _ => return Ok(path.to_owned()),
            };
            let path = self.scratch.join(built_in.0);
            std::fs::write(&path, built_in.1).context("cannot write the built-in sample")?;
            Ok(path)
        };
        let mut corpora = match &args.image {
            Some(image) => {
                let name = image.file_stem().map_or_else(|| "image".into(), |name| name.to_string_lossy());
                let (name, memory) = (name.into_owned(), image.clone());
                vec![Corpus {
                    name,
                    memory,
                    references: args.references.clone(),
                    rounds: args.rounds.clone(),
                }]
            }
            None if self.suite.corpus.is_empty() => {
                let references = vec![BUILT_IN_DISK.into()];
                vec![Corpus {
                    name: "sample".into(),
                    memory: BUILT_IN_MEMORY.into(),
                    references,
                    rounds: Vec::new(),
                }]
            }
            None => self.suite.corpus.clone(),
        };
        for corpus in &mut corpora {
            for named in corpus.files() {
                *named = file(named)?;
            }
            // What is packed is measured as what it was made of.
            let Corpus { memory, references, rounds, .. } = corpus;
            for image in std::iter::once(memory).chain(rounds) {
                if is_packed(image)? {
                    *image = unpacked(image, references, self.scratch, self.run)?;
                }
            }
        }
        Ok(corpora)
    }

    fn corpus(&self, corpus: &Corpus, threads: usize, result: &mut SuiteResult) -> Result<()> {
        self.run.check()?;
        let level = Level::from_env().map_err(|error| Problem::Usage(error.to_string()))?;
        let subject = Subject::open(&corpus.memory, Mapping::Kept, threads, level, self.scratch)?;
        let (pages, bytes) = (subject.image().page_count(), subject.image().file_len());
        if pages == 0 {
            let text = format!("{} holds no pages", corpus.memory.display());
            return Err(Problem::Usage(text).into());
        }
        let memory = subject.image().path().unwrap_or(&corpus.memory);
        let data_bytes = warm(memory)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let references =
            pool.install(|| References::build(&corpus.references, self.scratch, pages, level, self.run))?;
        drop(pool);
        // Before any page is touched through a mapping of this process: the system keeps those in its cache.
        let whole = if self.suite.whole { self.whole(corpus, &references, threads)? } else { Vec::new() };
        if self.suite.whole {
            warm(memory)?;
            references.paths.iter().try_for_each(|path| warm(path).map(drop))?;
        }
        let image = Image { format: subject.image().layout().format().name(), bytes, pages, data_bytes };
        let mut run = CorpusRun {
            corpus: corpus.name.clone(),
            synthetic: synthetic(&corpus.memory)?,
            image,
            references: references.built.clone(),
            threads,
            contenders: Vec::new(),
            absent: Vec::new(),
        };
        let mut all = Vec::new();
        let later = captures(subject.image(), &corpus.memory, &corpus.rounds)?;
        let measured = self.measure(&subject, &references, &later, &mut all, &mut run);
        run.contenders = all.into_iter().map(|running| running.line).collect();
        for (name, whole) in whole {
            if let Some(line) = run.contenders.iter_mut().find(|line| line.contender == name) {
                line.whole = Some(whole);
            }
        }
        result.runs.push(run);
        measured
    }

    /// Every contender as a program of its own, by name.
    fn whole(
        &self,
        corpus: &Corpus,
        references: &References,
        threads: usize,
    ) -> Result<Vec<(String, Whole)>> {
        let steps = Steps::new(self.suite.contenders.len() as u64);
        let mut measured = Vec::new();
        for name in &self.suite.contenders {
            self.run.check()?;
            steps.now(format!("{}: whole program: {name}", corpus.name));
            let whole = Whole::measure(name, &corpus.memory, references, threads, self.scratch);
            if let Some(whole) = whole.with_context(|| name.to_string())? {
                measured.push((name.to_string(), whole));
            }
            steps.done();
        }
        Ok(measured)
    }

    fn measure(
        &self,
        subject: &Subject,
        references: &References,
        later: &[Capture],
        all: &mut Vec<Running>,
        run: &mut CorpusRun,
    ) -> Result<()> {
        let Suite { repeats, links, longest, contenders, .. } = self.suite;
        let rounds = 1 + u64::from(*repeats) * (1 + links.len() as u64);
        let steps = Steps::new(contenders.len() as u64 * rounds);
        for name in contenders {
            self.run.check()?;
            steps.now(format!("{}: verifying {name}", run.corpus));
            match name.choose(subject, references, self.gpu, self.run)? {
                Chosen::Here(contender) => all.push(Running::verified(name, contender, subject)?),
                Chosen::NotHere(why) => run.absent.push(format!("{name}: {why}")),
            }
            steps.done();
        }
        for round in 1..=*repeats {
            let again = |running: &&mut Running| {
                !running.contender.once()
                    && (round == 1 || running.line.pack.wall_seconds.median() <= *longest)
            };
            for running in all.iter_mut().filter(again) {
                self.run.check()?;
                steps.now(format!("{}: round {round} of {repeats}: {}", run.corpus, running.name));
                running.pack(subject)?;
                steps.done();
            }
        }
        if later.len() > 1 {
            for running in all.iter_mut() {
                self.run.check()?;
                steps.now(format!("{}: live: {}", run.corpus, running.name));
                let rounds = running.contender.rounds(subject, later);
                running.line.rounds = rounds.with_context(|| running.name.to_string())?.unwrap_or_default();
            }
        }
        for link in links {
            if let Some(why) = link.missing() {
                run.absent.push(format!("{link}: {why}"));
                continue;
            }
            for round in 0..*repeats {
                for running in all.iter_mut() {
                    self.run.check()?;
                    steps.now(format!("{}: {}, round {}: {}", run.corpus, link, round + 1, running.name));
                    running.send(subject, *link, round, self.suite.longest)?;
                    steps.done();
                }
            }
            all.iter_mut().for_each(|running| running.costs.clear());
        }
        Ok(())
    }
}

impl Running {
    fn verified(name: &Named, mut contender: Box<dyn Contender>, subject: &Subject) -> Result<Self> {
        let verified = contender.verify(subject).with_context(|| name.to_string())?;
        let pack = Timing::new(subject.image().file_len(), &[verified.cost]);
        let line = Line {
            contender: name.to_string(),
            about: contender.about(),
            bytes: verified.bytes,
            pack: pack.context("a run took no time that can be measured")?,
            ends: contender.ends(),
            whole: None,
            blocks: contender.summary().map(Into::into),
            rounds: Vec::new(),
            links: Vec::new(),
        };
        Ok(Running { name: name.clone(), contender, line, costs: Vec::new(), carried: Vec::new() })
    }

    fn pack(&mut self, subject: &Subject) -> Result<()> {
        self.costs.push(self.contender.pack(subject).with_context(|| self.name.to_string())?);
        if let Some(timing) = Timing::new(subject.image().file_len(), &self.costs) {
            self.line.pack = timing;
            self.line.ends = self.contender.ends();
        }
        Ok(())
    }

    fn send(&mut self, subject: &Subject, way: Way, round: u32, longest: f64) -> Result<()> {
        if round == 0 {
            self.costs.clear();
            self.carried.clear();
        }
        let guest = subject.image().file_len();
        let (packing, carrying) = (self.line.pack.wall_seconds.median(), way.rate.seconds(self.line.bytes));
        if packing.max(carrying) > longest && round > 0 {
            return Ok(());
        }
        let link_decides = carrying > longest && packing < carrying / 4.0;
        let packing_decides = packing > longest && carrying < packing / 4.0;
        if (link_decides || packing_decides) && !self.name.follows_the_link() {
            if self.name.nature() != crate::contender::Nature::Roof {
                self.line.links.extend(OnLink::calculated(way, &self.line, guest));
            }
            return Ok(());
        }
        let link = way.open()?;
        let Some(cost) = self.contender.send(subject, &link).with_context(|| self.name.to_string())? else {
            return Ok(());
        };
        self.costs.push(cost);
        self.carried.push(link.carried()?);
        if round > 0 {
            self.line.links.pop();
        }
        let on = OnLink::measured(way, &self.costs, &self.carried, guest, subject.threads);
        self.line.links.extend(on.map(|on| OnLink { ends: self.contender.ends(), ..on }));
        Ok(())
    }
}

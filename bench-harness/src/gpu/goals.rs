//! What was promised of a GPU. A software adapter is held to none of it: it is the CPU.

use mig_engine::Effort;

use super::result::{GpuResult, Memory, Scan, Way};
use crate::goal::Goal;
use crate::measure::Samples;

/// Share of the host-to-device bandwidth that the scan is to reach, end to end.
const OF_UPLOAD: f64 = 0.8;
/// How many times fewer processor seconds scan and settle are to take than at AVX2.
const FEWER_SECONDS: f64 = 10.0;
/// What a pipeline with the GPU is to reach of that without, allowing for what two runs differ by anyway.
const NOT_SLOWER: f64 = 0.98;

pub(super) fn goals(result: &GpuResult) -> Vec<Goal> {
    if result.kind == mig_engine::gpu::AdapterKind::Software.name() {
        let why = "a software adapter says nothing of a GPU";
        return [
            format!("scan end to end, of host-to-device bandwidth >= {OF_UPLOAD}"),
            format!(
                "scan and settle: processor seconds at avx2, over those with the GPU >= {FEWER_SECONDS}x"
            ),
            format!("pipelines with the GPU, over those without >= {NOT_SLOWER}x"),
        ]
        .map(|what| Goal::unmeasured(what, why))
        .into();
    }
    let mut goals = Vec::new();
    // What pinning takes is in the rows of memory that is imported while it is scanned.
    let of = |scans: &[Scan]| scans.iter().find(|scan| scan.memory == Some(Memory::Imported)).cloned();
    let upload = Samples::new([result.upload]);
    let what = "scan end to end, memory imported before, of host-to-device bandwidth";
    goals.push(match of(&result.scans).zip(upload).and_then(|(scan, upload)| scan.rate.ratio(&upload)) {
        Some(share) => Goal::at_least(what, &share, OF_UPLOAD, ""),
        None => Goal::unmeasured(what, "this adapter does not import memory"),
    });
    let what = "scan and settle: processor seconds at avx2, over those with the GPU, memory imported before";
    // The runs did not take turns, so medians are compared.
    let avx2 = result.settles.iter().find(|settle| settle.who == "avx2");
    let fewer = avx2.zip(of(&result.settles)).and_then(|(cpu, gpu)| {
        Samples::new([cpu.cpu_seconds_per_gb.median() / gpu.cpu_seconds_per_gb.median()])
    });
    goals.push(match fewer {
        Some(fewer) => Goal::at_least(what, &fewer, FEWER_SECONDS, "x"),
        None => Goal::unmeasured(what, "this machine has no AVX2, or its adapter does not import memory"),
    });
    for pipeline in &result.pipelines {
        let (effort, memory) = (pipeline.effort, pipeline.memory.name());
        let what = format!("{effort}, memory {memory}: the pipeline with the GPU, over the one without");
        if pipeline.memory == Memory::Held && effort == Effort::Store.name() {
            goals.push(Goal::unmeasured(
                what,
                "pinning takes longer than scanning, so --gpu auto leaves this to the CPU",
            ));
            continue;
        }
        let timings = pipeline.timing(Way::Both).zip(pipeline.timing(Way::CpuOnly));
        let ratio = timings.and_then(|(both, cpu)| both.gb_per_second.ratio(&cpu.gb_per_second));
        goals.push(match ratio {
            Some(ratio) => Goal::at_least(&what, &ratio, NOT_SLOWER, "x"),
            None => Goal::unmeasured(what, "it was not run"),
        });
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::super::result::Pipeline;
    use super::*;
    use crate::goal::Verdict;
    use crate::measure::{Cost, Timing};

    fn samples(value: f64) -> Samples {
        Samples::new([value]).unwrap()
    }

    fn good() -> GpuResult {
        let scan = |who: &str, memory, rate, seconds| Scan {
            who: who.into(),
            memory,
            rate: samples(rate),
            cpu_seconds_per_gb: samples(seconds),
        };
        let timing = |wall| Timing::new(1 << 30, &[Cost { wall, cpu: 1.0 }]).unwrap();
        GpuResult {
            adapter: "A".into(),
            kind: "discrete",
            driver: "1".into(),
            import: "yes".into(),
            memory_bytes: 1 << 30,
            threads: 2,
            level: "avx2",
            host_read: samples(20.0),
            upload: 10.0,
            scan_on_device: 100.0,
            imported: None,
            scans: vec![
                scan("GPU", Some(Memory::Copied), 9.0, 0.1),
                scan("GPU", Some(Memory::Imported), 8.1, 0.1),
            ],
            settles: vec![
                scan("avx2", None, 1.0, 0.3),
                scan("GPU", Some(Memory::Held), 1.0, 0.001),
                scan("GPU", Some(Memory::Imported), 1.0, 0.029),
            ],
            pipelines: vec![Pipeline {
                effort: "fast",
                memory: Memory::Held,
                stream_bytes: 1,
                timings: vec![
                    (Way::CpuOnly, timing(1.0)),
                    (Way::GpuOnly, timing(2.0)),
                    (Way::Both, timing(0.9)),
                ],
            }],
        }
    }

    fn verdicts(result: &GpuResult) -> Vec<Verdict> {
        goals(result).into_iter().map(|goal| goal.verdict).collect()
    }

    #[test]
    fn each_goal_can_be_met_and_missed() {
        use Verdict::{Fail, Pass, Unmeasured};
        assert_eq!(verdicts(&good()), [Pass, Pass, Pass]);
        let mut slow = good();
        slow.scans[1].rate = samples(7.9);
        assert_eq!(verdicts(&slow), [Fail, Pass, Pass]);
        let mut busy = good();
        busy.settles[2].cpu_seconds_per_gb = samples(0.031);
        assert_eq!(verdicts(&busy), [Pass, Fail, Pass]);
        let mut held_up = good();
        held_up.pipelines[0].timings.swap_remove(0);
        held_up.pipelines[0]
            .timings
            .push((Way::CpuOnly, Timing::new(1 << 30, &[Cost { wall: 0.8, cpu: 1.0 }]).unwrap()));
        assert_eq!(verdicts(&held_up), [Pass, Pass, Fail]);
        let mut software = good();
        software.kind = "software";
        assert_eq!(verdicts(&software), [Unmeasured; 3]);
    }
}
